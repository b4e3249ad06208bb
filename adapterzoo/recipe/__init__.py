"""Read and check recipes: the YAML file, its keys, and the problems that it may have."""
