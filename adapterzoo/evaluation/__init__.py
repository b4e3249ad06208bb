"""Measure a model: likelihoods, generated answers, and forgetting."""
