"""Robust accuracy and loss with intervals, counted only where confirmed in float32."""
