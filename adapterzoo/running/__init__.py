"""Trains and measures the cells of a recipe, side by side in processes of their own."""
