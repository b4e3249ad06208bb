"""The base model: its files, its weights, and how it is put back after a cell."""
