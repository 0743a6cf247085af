"""Optimizers, losses, learning-rate schedules and penalties of a recipe."""
