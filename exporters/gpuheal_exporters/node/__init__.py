"""The state of one node as its kernel log tells it, kept as levels."""
