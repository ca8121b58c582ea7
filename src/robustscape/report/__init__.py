"""Results -> one interactive HTML page, and tables for the terminal, CSV and LaTeX."""
