"""`python -m gpuheal_lab.chart` writes what is made for the chart and from it; see `render`."""

from __future__ import annotations

import sys

from gpuheal_lab.chart.render import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
