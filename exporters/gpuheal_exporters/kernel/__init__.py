"""The kernel log: where it is read, and what its lines mean."""
