"""Sweeps: which points run, where, and what came of them."""
