"""Scores of answers: the contract of a metric, the registry of what is installed, and the built-in ones."""
