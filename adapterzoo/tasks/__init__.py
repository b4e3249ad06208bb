"""The contract of tasks, and their registry: what a model is trained for, on which rows, and how it is measured."""
