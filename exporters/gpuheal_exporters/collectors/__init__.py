"""One file per source or probe group; each collector has `collect()` and reads what it needs from its arguments.

- `kernel`: the state of the node; `self`: the exporter's own condition
- `presence`, `memory`, `link`, `pcie`, `thermal`: what NVML said last
- `driver`, `software`, `rdma`: /proc, /sys and sockets; `polled`: asks those in a thread of its own
"""
