"""The kernel log: where it is read, and what its lines mean.

- `kmsg`: one record, from `/dev/kmsg` or a line of text; fragments joined
- `message` → `xid`, `sxid`, `driverline`: one message in, one frozen value out
- `source`, `journal`: the ways to the log, each with a cursor; `tally`: gaps and overruns counted
- `parse`: `--parse`
"""
