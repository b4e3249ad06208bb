"""A comparison shown: in the terminal, as text for other programs, as a page."""
