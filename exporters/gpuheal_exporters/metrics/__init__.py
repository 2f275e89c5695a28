"""Every metric, as data.

- `kernel`, `nvml`: name, help, label and unit of every metric; `page`: METRICS.md, made from them
- `exposition`: metric families → text
"""
