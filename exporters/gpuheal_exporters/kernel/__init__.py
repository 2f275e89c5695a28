"""The kernel log: where it is read, and what its lines mean.

- `kmsg`: one record, from `/dev/kmsg` or a line of text; fragments joined
- `wrapper`: what may stand around the message of a line; `provenance`: who wrote an entry that has fields
- `message` → `xid`, `sxid`, `driverline`: one message in, one frozen value out
- `source`, `journal`: the ways to the log, each with a cursor; `tally`: gaps and overruns counted
- `parse`: `--parse`; `entries`: entries of several lines made one
"""
