"""Rewards: functions that give points to an answer. A model that learns by reinforcement gets more of them."""
