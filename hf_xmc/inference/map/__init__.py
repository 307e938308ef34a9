"""A picture of the catalogue in two dimensions: `hf-xmc map`."""
