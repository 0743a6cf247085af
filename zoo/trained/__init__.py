"""Trained models that come along, each a file of weights with its model card; ``make`` is what trains them."""
