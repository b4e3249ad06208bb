"""Score answers: the contract of a metric, the registry of installed metrics, and the built-in metrics."""
