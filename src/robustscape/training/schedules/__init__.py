"""Schedules as pure functions of progress: one a file."""
