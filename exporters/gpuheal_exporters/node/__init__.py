"""The state of one node as its kernel log tells it, kept as levels.

- `state`: what `feed` fills and collectors read; `handlers`: what each message changes in it
- `latch`: one level per key; `events`: the ring of raw events
- `identity`: PCI address ↔ GPU; `Inventory` is the protocol every inventory fulfils
- `persist`: a state on disk, whole or not at all
"""
