"""One procedure for the settings of every pair of model and corpus: see `commands.tune`."""
