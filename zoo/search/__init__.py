"""The search for good settings: many trainings that differ in a few keys, on one study that any number of processes share."""
