"""What is known of users: states, where they come from, and under which names they are kept."""
