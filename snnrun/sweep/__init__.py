"""Sweeps: which points run, where they run, and their results."""
