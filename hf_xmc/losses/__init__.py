"""Losses that compare query embeddings with label embeddings."""
