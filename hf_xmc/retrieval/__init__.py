"""Finding the best labels of a query."""
