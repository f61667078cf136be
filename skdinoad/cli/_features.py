"""``cache``: show, check or delete cached features."""

import json
from datetime import datetime

from skdinoad.features._store import open_store

__all__ = ["cache"]


def cache(options) -> int:
    """Print statistics of the cached features; check or delete them on request."""
    store = open_store(options.folder)
    if not store.folder.is_dir():
        raise FileNotFoundError(
            f"{options.folder} holds no cached features: expected the folder that was "
            "passed as cache= to DinoFeatures or CNNFeatures."
        )
    said = _described(store)
    if options.check:
        said["damaged"] = [str(path) for path in store.damaged()]
    if options.clear:
        said["deleted"] = store.clear()
    _show(said, options.json)
    return 0


def _described(store):
    entries = store.entries()
    return {
        "folder": str(store.folder),
        "entries": len(entries),
        "bytes": sum(entry.n_bytes for entry in entries),
        "oldest": _time(entries[0]) if entries else None,
        "newest": _time(entries[-1]) if entries else None,
    }


def _time(entry):
    """Return the time at which an entry was last used."""
    return datetime.fromtimestamp(entry.used).astimezone().isoformat(timespec="seconds")


def _show(said, as_json):
    if as_json:
        print(json.dumps(said))
        return
    paths = said.pop("damaged", None)
    for name, value in said.items():
        print(f"{name:10} {'-' if value is None else value}")
    if paths is not None:
        print("\n".join([f"{'damaged':10} {len(paths)}", *paths]))
