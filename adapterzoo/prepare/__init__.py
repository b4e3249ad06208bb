"""All that can be known and checked of a run before the model's weights are loaded."""
