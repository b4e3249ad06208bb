"""The forms of a comparison: a table and plots in the terminal, text for other programs, and an HTML page."""
