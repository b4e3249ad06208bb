"""The base model: find its files, load its weights, and restore it after each cell."""
