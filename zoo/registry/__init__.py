"""Names: registering models and data sets, and reading what is registered without importing it."""
