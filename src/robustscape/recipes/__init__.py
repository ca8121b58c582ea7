"""Functions that return a whole Run: one file a data set."""
