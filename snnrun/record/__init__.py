"""The folder of a run: the files in it, their names, and how they are written."""
