"""Configs of `snnrun train`; Hydra finds them here as the package `snnrun.conf`."""
