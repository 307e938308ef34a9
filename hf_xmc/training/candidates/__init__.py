"""Which labels enter the loss of a step."""
