"""Rules as values, and promtool."""
