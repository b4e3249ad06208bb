"""The recipe: its keys, its file, and what may be wrong with it."""
