"""NVML, asked in a process that may get stuck."""
