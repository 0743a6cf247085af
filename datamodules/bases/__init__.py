"""Base classes of data sets, one for each kind of work."""
