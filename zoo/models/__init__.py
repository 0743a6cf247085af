"""The networks, one family a file; they are reached by name, through ``zoo.registry.registry``."""
