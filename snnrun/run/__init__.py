"""One run, from plain values to its files."""
