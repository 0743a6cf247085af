"""What the network of a run says, a file for each kind of work."""
