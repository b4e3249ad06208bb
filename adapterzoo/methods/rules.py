"""The rules of the comparison, which are counted in every run, outside of the methods' code."""

from __future__ import annotations

STEPS, BETWEEN_STEPS, LEARNING_RATE, OPTIMIZER = "steps", "between steps", "learning rate", "optimizer"
GRADIENT_NORM, ROWS, SIZE, BEFORE_TRAINING = "gradient norm", "rows", "size", "before training"
ANSWERS = "answers"
RULES = {
    STEPS: "there is one optimizer step for each step of the recipe, and one backward pass for each batch",
    BETWEEN_STEPS: "between the steps of the optimizer, nothing changes the trained parameters",
    LEARNING_RATE: "all parameters are trained at the cell's learning rate, by the recipe's scheduler",
    OPTIMIZER: "the optimizer and its settings are the recipe's",
    GRADIENT_NORM: "the norm of the gradients is at most the recipe's max_grad_norm",
    ROWS: "training sees the recipe's rows; before training no rows are read, unless reads_data is declared",
    SIZE: "everything that training changes is counted as trained",
    ANSWERS: "a token is predicted from those before it alone: not from those that follow it, nor from other rows",
    BEFORE_TRAINING: "nothing is learned before training: wrap() computes no gradients and makes no optimizer step",
}
"""rule -> what it says"""
