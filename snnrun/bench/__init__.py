"""Measuring time, memory and spikes."""
