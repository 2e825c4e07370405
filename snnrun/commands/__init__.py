"""The commands of `snnrun`, one file each."""
