"""Basics that all other packages use; never imports torch."""

__version__ = "0.1.0"
