"""Find, read, select and split the user's rows, and turn each into an example. Nothing here imports torch."""
