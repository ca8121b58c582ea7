"""The loss around the weights: one measurement a file."""
