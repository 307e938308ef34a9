"""From files to validated data sets and batches."""
