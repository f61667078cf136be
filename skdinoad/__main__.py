"""``python -m skdinoad`` is the command ``skdinoad``."""

import sys

from skdinoad.cli import main

if __name__ == "__main__":
    sys.exit(main())
