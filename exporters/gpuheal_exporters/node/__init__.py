"""The state of one node as its kernel log tells it, kept as levels.

- `state`: what is fed, saved and shown; `handlers`: what each message changes in it
- `levels` of `latch`: one per key; `events`: the ring of raw events; `addresses`: which GPU a line means
- `follower`: the loop that keeps a state in step with its log
"""
