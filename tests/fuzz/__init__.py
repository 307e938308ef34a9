"""Damaged and crafted files, made by a seeded generator."""
