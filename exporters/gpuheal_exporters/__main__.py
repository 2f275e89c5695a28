"""`python -m gpuheal_exporters` is `gpuheal exporter`."""

import sys

from gpuheal_exporters.main import main

sys.exit(main(sys.argv[1:]))
