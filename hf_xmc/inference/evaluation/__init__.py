"""Measuring a model, or any predictions, on a split, and the report of it."""
