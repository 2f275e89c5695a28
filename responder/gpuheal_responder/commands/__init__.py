"""Subcommands of `gpuheal`; each module has `main(argv) -> int` and loads what it needs inside."""
