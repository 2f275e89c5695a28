"""Small files of the host, and the GPUs it is known to have."""
