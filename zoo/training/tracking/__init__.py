"""Experiment trackers: guests of a training, which they can neither block nor stop."""
