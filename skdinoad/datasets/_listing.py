"""List the image files below a folder, and warn about other files."""

import os
import unicodedata
from collections import Counter
from pathlib import Path

from skdinoad._compat.caller import warn

__all__ = ["GOOD", "TRUTH", "below", "fold", "is_good", "list_images", "shown"]

#: Accepted names of folders of good images and of masks; see ``fold``.
GOOD = frozenset({"good", "ok", "normal"})
TRUTH = frozenset({"ground_truth", "ground-truth", "ground truth", "groundtruth"})

# fmt: off
_IMAGES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".tif",
    ".tiff", ".webp", ".avif", ".gif", ".tga", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf",
    ".jpx", ".pbm", ".pgm", ".ppm", ".pnm",
}
#: Notes and annotations beside images, skipped without a warning.
_NOTES = {
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".toml",
    ".ini", ".html", ".log", ".db",
}
#: Files and folders created by operating systems, besides names starting with a dot.
_LITTER = {
    "__macosx", "thumbs", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir",
    "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found",
    "__pycache__",
}
# fmt: on


def list_images(root, *names):
    """Return the sorted image files below a folder, as relative paths.

    Links are followed except in cycles. Hidden files and folders and those created by
    systems (thumbnails, checkpoints) are ignored. Warnings list other files that were
    left out and folders without images.

    Parameters
    ----------
    root : path
    *names : str or set of str
        Child folders to search, compared by :func:`fold`; a set holds alternative
        spellings of one name. Without names, everything is searched.

    Returns
    -------
    list of Path

    Raises
    ------
    FileNotFoundError
        If the folder does not exist, or a link below it is broken.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder.")
    images, others, empty = [], [], []
    for folder, inner, files in _folders(root, names):
        paths = [(folder / name).relative_to(root) for name in files]
        found = [path for path in paths if path.suffix.lower() in _IMAGES]
        others += [path for path in paths if path.suffix.lower() not in _IMAGES]
        images += found
        if not inner and not found:
            empty.append(folder.relative_to(root))
    _tell_others(root, [p for p in others if p.suffix.lower() not in _NOTES])
    _tell_empty(root, [p for p in empty if len(p.parts) > 1 and not _in_truth(p)])
    return sorted(images)


def below(paths, *names):
    """Return the paths below folders of given names, with their relative paths.

    Parameters
    ----------
    paths : list of Path
    *names : str or set of str
        Names of the first folders; a set holds alternative spellings of one name.

    Returns
    -------
    dict of Path to Path
        Maps each matching path to its path relative to the named folders.

    Examples
    --------
    >>> from pathlib import Path
    >>> from skdinoad.datasets._listing import GOOD, below
    >>> paths = [Path("Test/GOOD/a/0.png"), Path("test/dent/1.png")]
    >>> found = below(paths, "test", GOOD)
    >>> [place.as_posix() for place in found.values()]
    ['a/0.png']
    """
    n = len(names)
    return {
        path: Path(*path.parts[n:])
        for path in paths
        if len(path.parts) > n and all(map(_is, path.parts, names))
    }


def fold(path) -> str:
    """Normalise a path for comparison: casefolded, with outer spaces stripped.

    The two Unicode encodings of accented letters become equal, too.
    """
    text = unicodedata.normalize("NFC", Path(path).as_posix()).casefold()
    return "/".join(part.strip() for part in text.split("/"))


def is_good(name) -> bool:
    """Whether a folder name or label denotes good images."""
    return fold(name) in GOOD


def shown(paths) -> str:
    """Return the first few paths for a message."""
    first = ", ".join(str(path) for path in paths[:3])
    return first + (", ..." if len(paths) > 3 else "")


# -- walking --------------------------------------------------------------------------


def _folders(root, names):
    """Yield (folder, names of its folders, names of its files) of all to search."""
    real = os.path.realpath(root)
    above = {real, *map(str, Path(real).parents)}
    if not names:
        above.remove(real)
        yield from _walk(root, above)
        return
    for name in _entries(root)[0]:
        if any(_is(name, wanted) for wanted in names):
            yield from _walk(root / name, above)


def _walk(folder, above):
    """Yield (folder, names of its folders, names of its files) of all below.

    ``above`` holds the real paths of the parent folders; a link to one of them is a
    cycle and is skipped.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    folders, files = _entries(folder)
    yield folder, folders, files
    for name in folders:
        yield from _walk(folder / name, above | {real})


def _entries(folder):
    """Return the names of the folders and of the files in a folder, sorted."""
    folders, files = [], []
    for name in sorted(os.listdir(folder)):
        if name.startswith(".") or name.strip().casefold() in _LITTER:
            continue
        path = folder / name
        if path.is_dir():
            folders.append(name)
        elif path.is_file():
            files.append(name)
        else:
            raise FileNotFoundError(
                f"{path} is neither a file nor a folder; it may be a broken link. "
                "Repair or remove it."
            )
    return folders, files


def _is(name, wanted):
    return fold(name) in ({wanted} if isinstance(wanted, str) else wanted)


def _in_truth(path):
    return any(_is(part, TRUTH) for part in path.parts)


# -- telling --------------------------------------------------------------------------


def _tell_others(root, files):
    if not files:
        return
    counts = Counter(path.suffix.lower() or "without a suffix" for path in files)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
    warn(
        f"Files below {root} were left out, because their format is not supported: "
        f"{kinds} ({shown(files)}). Convert them to PNG, or move them away.",
        UserWarning,
    )


def _tell_empty(root, folders):
    if folders:
        warn(
            f"Folders below {root} hold no image: {shown(folders)}. Are files missing?",
            UserWarning,
        )
