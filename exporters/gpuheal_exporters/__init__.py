"""The exporter: what the kernel log and NVML say about the GPUs of one node, kept as levels."""
