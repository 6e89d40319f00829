"""From questions to lists of items: encoded, found, scored, and put into slots."""
