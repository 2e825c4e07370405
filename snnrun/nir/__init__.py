"""Networks as NIR graphs, and another simulator's spikes."""
