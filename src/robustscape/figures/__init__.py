"""Results -> a matplotlib Axes: one figure a file, made from saved results only."""
