"""Train and measure the cells of a recipe, several at a time, each in its own process."""
