"""The simulated fleet: metal, nodes, pods, and an API server that answers like the real one."""
