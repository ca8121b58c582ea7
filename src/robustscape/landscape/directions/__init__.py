"""Directions in weight space that the loss is drawn along: one family a file, ``family`` chooses."""
