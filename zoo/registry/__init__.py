"""The registry: decorators, and reading what they register without importing it."""
