"""Every metric, as data."""
