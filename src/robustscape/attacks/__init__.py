"""Searches in input space: one attack a file."""
