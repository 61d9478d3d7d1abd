"""Train a small MNIST classifier, measure it, and decide whether it may ship."""

__version__ = "0.1.0"
