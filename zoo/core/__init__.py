"""What everything else stands on; never imports torch."""
