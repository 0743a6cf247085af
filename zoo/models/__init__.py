"""The networks, one family a file; use them by name, through ``zoo.registry.registry``."""
