"""`python -m snnrun`: the same as the command `snnrun`."""

import sys

from snnrun.cli import main

if __name__ == "__main__":
    sys.exit(main())
