"""What everything else stands on; never imports torch."""

__version__ = "0.1.0"
