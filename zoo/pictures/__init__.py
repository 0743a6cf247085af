"""Figures of weights, predictions, attention, learning curves and data, one idea per file; ``kinds`` is the index."""
