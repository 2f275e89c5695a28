"""Small files of the host, and the GPUs it is known to have.

- `bootinfo`: which boot, which driver; `procfs`: reads of /proc and /sys; `pcitree`: which GPU a PCIe port leads to
- `inventory`: every GPU ever seen here, on disk
"""
