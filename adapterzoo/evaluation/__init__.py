"""Measures a model: likelihoods, generated answers, and what became of general text."""
