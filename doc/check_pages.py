"""List public names that the built pages do not document; run by ``make doc``.

python doc/check_pages.py doc/_build/html
"""

import inspect
import re
import sys
from pathlib import Path

import skdinoad
from skdinoad import datasets, metrics, monitoring, plotting, report


def main(folder):
    pages = Path(folder).glob("generated/*.html")
    shown = {
        x for p in pages for x in re.findall(r'id="(skdinoad[^"]*)"', p.read_text())
    }
    missing = [name for name in wanted() if name not in shown]
    print(f"{len(missing)} public names without an entry", *missing, sep="\n  ")
    return int(bool(missing))


def wanted():
    """Yield the names of all public functions, classes and their methods."""
    for module in (skdinoad, datasets, metrics, monitoring, plotting, report):
        for name in module.__all__:
            item = getattr(module, name)
            if not callable(item):
                continue
            full = f"{module.__name__}.{name}"
            yield full
            if inspect.isclass(item):
                found = inspect.getmembers(item, inspect.isroutine)
                yield from (f"{full}.{m}" for m, _ in found if not m.startswith("_"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
