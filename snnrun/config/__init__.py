"""The config of a run: schemas, checks, and the messages about mistakes."""
