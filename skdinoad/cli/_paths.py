"""Find the images and load the model named on the command line."""

import glob
import sys
from pathlib import Path

from skdinoad import load
from skdinoad.datasets._folder import normals_in
from skdinoad.datasets._listing import GOOD, TRUTH, below, list_images

__all__ = ["check_folders", "good_images", "images_of", "load_model"]


def check_folders(*files):
    """Raise an error if the folder of an output file is missing, before any work."""
    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise FileNotFoundError(
                f"{file} cannot be written: there is no folder {file.parent}. Create "
                "it first."
            )


def good_images(folder) -> list:
    """Return the good images of a flat folder or one in MVTec AD's layout.

    Examples
    --------
    >>> good_images("no_such_folder")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder.
    """
    folder = Path(folder)
    if (folder / "train").is_dir():
        found = normals_in(folder, list_images(folder, "train"), "train")
    else:
        files = list_images(folder)
        if below(files, "test") or below(files, TRUTH):
            raise ValueError(
                f"{folder} holds test or ground_truth but no train/good: expected a "
                "folder of good images, or MVTec AD's layout."
            )
        found = list(below(files, GOOD)) or files
    if not found:
        raise FileNotFoundError(f"{folder} holds no image to learn from.")
    return [str(folder / path) for path in found]


def images_of(arguments) -> list:
    """Return the unique image paths named by arguments, in order.

    Parameters
    ----------
    arguments : list of str
        Files, folders, patterns; "@file" reads a list of paths from a file and "-" from
        standard input, one path per line.

    Raises
    ------
    FileNotFoundError
        If a folder holds no image, or a pattern matches none. A missing file raises no
        error here; it becomes a result with an error.
    """
    paths = [path for argument in arguments for path in _of(argument)]
    return list(dict.fromkeys(paths))


def _of(argument):
    if argument == "-":
        return _lines(sys.stdin.read())
    if argument.startswith("@"):
        return _lines(Path(argument[1:]).read_text())
    path = Path(argument)
    if path.is_dir():
        found = [str(path / file) for file in list_images(path)]
    elif glob.has_magic(argument) and not path.exists():
        found = sorted(glob.glob(argument, recursive=True))
    else:
        return [argument]
    if not found:
        raise FileNotFoundError(f"{argument} holds or matches no image.")
    return found


def _lines(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def load_model(path):
    """Load an estimator saved by ``skdinoad.save``."""
    model = load(path)
    if not hasattr(model, "score_samples"):
        raise ValueError(
            f"{str(path)!r} holds a {type(model).__name__}, not a detector."
        )
    return model
