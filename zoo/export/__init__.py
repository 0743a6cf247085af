"""Export of trained classifiers to a single file, verified against the original, with a model card."""
