"""Training runs: building, fitting, testing, predicting, and their files."""
