"""Worlds that are made from a seed: scenes, images and words whose truth is known."""
