"""Recommends for many users at once through Ray Data, with the same code as evaluation and serving."""
