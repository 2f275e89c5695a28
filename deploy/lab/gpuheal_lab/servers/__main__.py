"""`python -m gpuheal_lab.servers` finds or installs servers; see `find`."""

from __future__ import annotations

import sys

from gpuheal_lab.servers.find import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
