"""A metric as data, and its text.

- `definition`: name, help, labels and unit of a metric, and the tables and families made of them
- `exposition`: metric families → text
"""
