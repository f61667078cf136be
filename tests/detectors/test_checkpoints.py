import pickle

import numpy as np
import pytest
import torch

from skdinoad import DMAD, Dinomaly
from skdinoad.testing import make_images

#: Our names of Dinomaly's layers, and the official ones.
NAMES = {
    "qkv": "attn.qkv",
    "project": "attn.proj",
    "inner": "mlp.fc1",
    "outer": "mlp.fc2",
}


#: The layers of the bottleneck in Dinomaly and Dinomaly2.
FIRST = {"inner": "0.fc1", "outer": "0.fc2"}
SECOND = {"neck": "0.0", "inner": "1.0", "outer": "1.3"}


def official_names(weights):
    """Return a decoder's weights under the names of the official code."""
    out = {"encoder.cls_token": torch.zeros(1, 1, 8)}
    for name, value in weights.items():
        part, *rest = name.split(".")
        if part == "blocks":
            i, layer, kind = rest
            name = f"decoder.{i}.{NAMES.get(layer, layer)}.{kind}"
        elif part == "bottleneck":
            layers = SECOND if "bottleneck.neck.weight" in weights else FIRST
            name = f"bottleneck.{layers[rest[0]]}.{rest[1]}"
        else:
            continue
        out[name] = torch.tensor(value)
    return out


@pytest.fixture(params=["fast", "dinomaly2"])
def fitted(make_tiny, request):
    features = make_tiny(layers="middle", groups=2)
    how = {"features": features, "depth": 2, "training__n_iter": 6, "holdout": None}
    return Dinomaly(preset=request.param).set_params(**how).fit(make_images(4))


def test_dinomaly_scores_as_the_model_that_wrote_the_file(fitted, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(official_names(fitted.decoder_), path)
    X = make_images(6)
    loaded = Dinomaly.load_official(path, X[:4], features=fitted.features, depth=2)
    assert np.array_equal(loaded.score_samples(X), fitted.score_samples(X))
    assert np.array_equal(loaded.predict_map(X), fitted.predict_map(X))
    assert loaded.n_iter_ == 0
    assert (loaded.preset == "dinomaly2") == (fitted.preset == "dinomaly2")
    assert len(loaded.official_digest_) == 64
    # There was no training, so all good images determine the threshold.
    # (Training tokens are stored as float16.)
    assert np.allclose(loaded.holdout_scores_, loaded.score_samples(X[:4]), rtol=1e-3)
    again = pickle.loads(pickle.dumps(loaded))
    assert np.array_equal(again.predict(X), loaded.predict(X))


def test_weights_of_another_shape_are_refused_and_nothing_stays(fitted, tmp_path):
    weights = official_names(fitted.decoder_)
    weights["decoder.0.norm1.weight"] = torch.ones(3)
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="of another shape"):
        Dinomaly.load_official(
            tmp_path / "model.pth", make_images(4), features=fitted.features
        )


@pytest.mark.parametrize("cls", [Dinomaly, DMAD])
def test_files_that_are_none_are_refused(cls, tmp_path):
    path = tmp_path / "model.pth"
    with pytest.raises(FileNotFoundError, match=r"model\.pth"):
        cls.load_official(path, make_images(3))
    path.write_bytes(b"PK\3\4 cut off")
    with pytest.raises(ValueError, match="cannot be read"):
        cls.load_official(path, make_images(3))
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds a list, expected a dict"):
        cls.load_official(path, make_images(3))
    torch.save({"epoch": 3}, path)
    with pytest.raises(
        ValueError, match=f"not a checkpoint of the official {cls.__name__}"
    ):
        cls.load_official(path, make_images(3))


def test_no_code_runs(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("boom").touch, ())

    torch.save({"decoder": Bomb()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="more than weights"):
        Dinomaly.load_official(tmp_path / "model.pth", make_images(3))
    assert not tmp_path.joinpath("boom").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"offset": {}, "bn": {}, "decoder": {}},
        {"offset": [torch.zeros(2)], "bn": {}, "decoder": {}},
        {"decoder.0.norm1.weight": torch.zeros(3)},
        {"decoder": {"foo": torch.zeros(3)}},
    ],
)
@pytest.mark.parametrize("cls", [DMAD, Dinomaly])
def test_files_of_odd_content_are_refused_in_a_sentence(cls, content, tmp_path):
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"checkpoint|weights"):
        cls.load_official(path, make_images(3))
