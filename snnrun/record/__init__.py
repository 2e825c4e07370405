"""The folder of a run: what lies in it under which name, and how it is written."""
