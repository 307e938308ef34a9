"""Which queries make a batch, and which labels enter the loss."""
