"""The contract and the registry of quantizations of the base model; the quantizations themselves are plugins."""
