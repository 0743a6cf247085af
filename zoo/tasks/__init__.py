"""LightningModules that own a loop, one for each kind of work."""
