"""The contract of an adapter method, the ready-made kinds, and the registry of what is installed."""
