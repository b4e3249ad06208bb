"""Use trained adapters: load one on the base that it was trained on, or merge it into the base."""
