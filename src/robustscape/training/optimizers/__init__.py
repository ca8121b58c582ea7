"""Optimisers as configurations: one a file."""
