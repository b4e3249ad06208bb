"""Uses trained adapters: loads one with the base that it was trained on, and merges it."""
