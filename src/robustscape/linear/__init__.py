"""Closed forms for linear models: exact adversary, loss, curvature, margins, noise and separability."""
