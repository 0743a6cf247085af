"""Worlds that are made from a seed: scenes, pictures and words whose truth is known."""
