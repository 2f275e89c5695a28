"""The catalogue of faults, signals and codes: data, and its strict reader."""
