"""Pictures of what networks learn and of the data they learn from, each idea in a file; ``kinds`` is the index."""
