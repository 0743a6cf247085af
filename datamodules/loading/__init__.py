"""From samples to batches: splits, order, augmentation, position in an epoch."""
