"""One version, for the package, its metadata and the files it writes."""

from importlib.metadata import version

import skdinoad
from skdinoad._version import __version__


def test_the_version_is_that_of_the_metadata():
    assert skdinoad.__version__ == __version__ == version("skdinoad")
