"""Predictions for people: the pipeline, files of texts, reports."""
