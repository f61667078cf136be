"""``python -m skdinoad`` is the command ``skdinoad``."""

import atexit
import gc
import sys

from skdinoad import cli


def main() -> int:
    """Run the command in a process of its own; return its exit status."""
    # At the end Python would look through a million objects of torch and scikit-learn
    # for garbage, a second long. The command has closed its files by then.
    atexit.register(gc.freeze)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
