"""Whose work runs on which GPU."""
