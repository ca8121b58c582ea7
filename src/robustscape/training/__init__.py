"""The loop, its schedules, averaging and checkpoints."""
