"""A simulated GPU fleet: metal, cluster and exporters, needing no server at all, in a time that moves only when told.

- `clock`: the clock, and a schedule of what happens later; `catch_up` makes it happen
- `spec`: nodes and GPUs with names, UUIDs, serials and PCI addresses, all from one seed
- `machine`: the metal: power, boots, kernel log, GPU faults, what cures them, relapses
- `objects`: raw Kubernetes objects; `essence`: what has to be as before; `apiserver`: versions, conflicts
- `nodeagent`: kubelets, device plugins, taints of controllers; `workload`: pods, budgets, Eviction, scheduler
- `injection`: refusals, timeouts after the fact, the death of the caller at any boundary
- `cluster`: `Simulation`: all of it, as ports; `store`: cases and histories; `provider`: reboots, controls
- `telemetry`: dcgm-exporter's, our exporter's (the real code) and kube-state-metrics' texts; `discovery`: their targets
- `sim`: `gpuheal sim`: the fleet over HTTP
"""
