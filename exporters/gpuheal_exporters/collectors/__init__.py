"""One file per collector: its metrics, and a `collect()` that reads what it needs from its arguments.

- `registry`: every collector, one line each; `definition`: what the registry knows of it
- `polled`: asks a collector that may block, in a thread of its own
- `page`: METRICS.md, made from the registry
"""
