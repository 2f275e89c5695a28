"""NVML, asked in a process that may get stuck.

- `supervisor`: keeps one child at work; `process`: the child seen from here; `child`: from inside
- `probe`, `fields`: the questions; only `probe` imports pynvml
- `schedule`: how often and how long; `state`: what was learned; `snapshot`: what is published of it
- `reset`: a GPU that came back from a reset
"""
