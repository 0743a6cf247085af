"""Whole trainings: building, fitting, testing, predicting, and what they leave on disk."""
