"""Transforms of training batches, listed by ``zoo list --augmentations``: one idea a file, combined by ``augmentation.py``."""
