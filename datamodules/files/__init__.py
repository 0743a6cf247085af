"""Reading images, annotations and features from disk."""
