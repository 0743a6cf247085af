"""Hyperparameter search: many runs that differ in a few keys, in one study that any number of processes share."""
