"""``inspect`` and ``weights``."""

import hashlib
import json

from skdinoad import CNNFeatures, DinoFeatures
from skdinoad.cli._paths import load_model
from skdinoad.verdicts import described

__all__ = ["file_digest", "inspect", "weights"]


def inspect(options) -> int:
    """Print a model's settings and training information."""
    model = load_model(options.model)
    said = {**described(model), **file_digest(options.model)}
    if options.json:
        print(json.dumps(said))
    else:
        for name, value in said.items():
            print(f"{name.replace('_', ' '):18} {value}")
    return 0


def file_digest(path) -> dict:
    """Return the digest of a model file as an entry of its description."""
    return {"file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def weights(options) -> int:
    """Print which weights are found for each kind of network, and their source."""
    source = {"weights": "hub"} if options.fetch else {}
    for kind in (DinoFeatures(**source), CNNFeatures(standardize=False, **source)):
        try:
            found = kind.fit()
            print(
                f"{kind.model}: {found.weights_name_}, {found.weights_digest_[:12]}..."
            )
        except RuntimeError as error:
            print(f"{kind.model}: {error}")
    return 0
