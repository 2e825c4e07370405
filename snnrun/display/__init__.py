"""What a user sees: the terminal and the figures."""
