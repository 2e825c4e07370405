"""The runs that were made: read, filtered, compared."""
