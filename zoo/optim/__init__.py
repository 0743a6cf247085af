"""From a recipe to torch objects: optimizers and schedules."""
