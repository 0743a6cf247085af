"""From a recipe to torch objects: optimizers, schedules and penalties."""
