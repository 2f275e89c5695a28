"""Real Prometheus, Alertmanager, etcd and Kubernetes binaries: found or built, run as children on loopback.

- `find`: `find` (what is here), `ensure` (build, unpack, pull), the command line, which `__main__` starts
- `sources`: the ways a server can come here, in order; `gobuild`: the Go build; `spec`: `servers.yaml` as values
- `process`: a child: start, ready, stop, kill, restart, freeze; one command with a deadline; `LabError`
- `stack`: Prometheus, Alertmanager, an Alertmanager pair; `wait_for`

`servers.yaml` is the one place that pins versions, modules, build flags and images, and says why.
"""
