"""`hf-xmc audit`: annotations that are probably missing, and annotations that are probably wrong."""
