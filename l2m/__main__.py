"""``python -m l2m`` and ``torchrun -m l2m``: the command `l2m`."""

import sys

from l2m.cli import main

if __name__ == "__main__":
    sys.exit(main())
