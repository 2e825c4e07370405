"""The config of a run: schemas, checks, what is said about a mistake."""
