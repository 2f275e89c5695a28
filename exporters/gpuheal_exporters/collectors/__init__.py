"""One file per source or probe group; each collector has `collect()` and reads everything it needs from its
arguments.
"""
