"""Small files of the host, and the GPUs it is known to have.

- `bootinfo`: which boot, which driver; `procfs`: reads of /proc and /sys; `pcitree`: which GPU a PCIe port leads to
- `identity`: PCI address ↔ GPU; `Inventory` is the protocol every inventory fulfils
- `inventory`: every GPU ever seen here, on disk; `persist`: a file that is whole or not there
- `shape`: what may be in a file of ours
"""
