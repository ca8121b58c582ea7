"""Results -> pictures as plain data, one file a measurement: what figures and the report draw alike."""
