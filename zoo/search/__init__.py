"""Hyperparameter search: many trainings that differ in a few keys, in one study that any number of processes share."""
