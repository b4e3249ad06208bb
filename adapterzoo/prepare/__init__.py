"""Plan a run and check everything that can be checked before the model's weights are loaded."""
