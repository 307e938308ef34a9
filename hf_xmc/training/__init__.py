"""The one trainer: losses, candidates and gradient caching on top of transformers' Trainer."""
