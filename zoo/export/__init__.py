"""Shipping a trained classifier: one file that holds everything, checked against the original, and a page about it."""
