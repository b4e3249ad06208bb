"""What answers are worth to a model that learns by reinforcement: the rewards, and how they are found."""
