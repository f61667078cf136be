"""``inspect`` and ``weights``."""

import hashlib
import json

from skdinoad import CNNFeatures, DinoFeatures
from skdinoad.cli._paths import load_model
from skdinoad.verdicts import described, settings_of_weights

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
    """Print the weights found for each kind of network, their source and settings."""
    source = {"weights": "hub"} if options.fetch else {}
    for kind in (DinoFeatures(**source), CNNFeatures(standardize=False, **source)):
        try:
            found = kind.fit()
            digest = found.weights_digest_[:12]
            print(f"{kind.model}: {found.weights_name_}, {digest}...")
            for line in settings_of_weights(found):
                print(f"  {line}")
        except RuntimeError as error:
            print(f"{kind.model}: {error}")
    return 0
