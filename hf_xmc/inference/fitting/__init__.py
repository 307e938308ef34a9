"""What is fitted to a trained model without training it: query memory, confidence, fusion of the label head."""
