import numpy as np
import pytest
import torch

from skdinoad import AnomalyDINO, DinoPatch, Tiles, load, save
from skdinoad.features import _engines
from skdinoad.features._backbones import load_backbone
from skdinoad.features._blocks import block_tokens, stacked_tokens
from skdinoad.features._engines import clear_engines, difference
from skdinoad.features._store import clear_memory
from skdinoad.scale import merge
from skdinoad.testing import make_images

EXACT, INT8 = ("onnxruntime", "openvino"), "onnxruntime-int8"

# -- installed engines: one network, exported once ------------------------------------


@pytest.mark.parametrize("engine", [*EXACT, INT8])
def test_engine_says_what_torch_says(make_tiny, engine):
    for package in _engines._NEEDS[engine]:
        pytest.importorskip(package)
    X = make_images(5)  # batches of 4 and of 1
    layers = {"layers": [1, 0], "cache": False}
    expected = make_tiny(**layers).fit(X).transform(X)
    features = make_tiny(engine=engine, **layers).fit(X)
    found = features.transform(X)
    assert features.engine_ == engine
    assert not np.array_equal(found, expected)  # not computed by torch
    tokens = [F.reshape(-1, 2, 64) for F in (found, expected)]
    assert difference(*tokens) < (0.03 if engine == INT8 else 1e-5)


def test_position_embeddings_are_resized_before_the_export():
    """torch resizes them; OpenVINO would do so without antialiasing."""
    network = load_backbone("test_vit", "random:0").network
    before = network.pos_embed.clone()
    x = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = stacked_tokens(block_tokens(network, x, (2,), False))
        sized = _engines._of_size(network, (64, 80))
        found = stacked_tokens(block_tokens(sized, x, (2,), False))
    assert sized.pos_embed.shape == (1, 1 + 4 * 5, 64)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert torch.equal(network.pos_embed, before)


# -- selection and checks, with simulated engines -------------------------------------


@pytest.fixture
def bare(monkeypatch):
    """Simulate that no package of any engine is installed."""
    clear_engines()
    for name in (*EXACT, INT8):
        extra = _engines._NEEDS[name][0]
        monkeypatch.setitem(_engines._NEEDS, name, (extra, "no_such_package"))
    yield
    clear_engines()


@pytest.fixture
def fake(monkeypatch, bare):
    """Return a function that defines an engine: torch with changed tokens."""
    compiled = []

    def put(change=lambda tokens: tokens, name="onnxruntime"):
        def compile_(_, backbone, layers, norm, size):
            compiled.append(size)
            network = backbone.network
            return lambda x: change(
                stacked_tokens(block_tokens(network, x, layers, norm))
            )

        monkeypatch.setitem(_engines._NEEDS, name, ())
        monkeypatch.setitem(_engines._COMPILE, name, compile_)
        return compiled

    return put


def moved(by):
    """Return a change of tokens: one patch moves by a share of the usual distance."""

    def change(tokens):
        rms = (tokens - tokens.mean((0, 1))).square().sum(-1).mean((0, 1)).sqrt()
        step = torch.zeros_like(tokens)
        step[..., 0] = by * rms
        return tokens + step

    return change


def test_difference_is_a_share_of_how_far_tokens_lie_apart():
    expected = np.array([[[1.0, 100]], [[-1.0, 100]]])  # 1 from their mean
    assert difference(expected + np.array([0.5, 0]), expected) == pytest.approx(0.5)
    layers = np.concatenate([expected, 10 * expected], 1)  # 10 in the other layer
    assert difference(layers + 0.5, layers) == pytest.approx(0.5**0.5)
    assert difference(expected[:1] * (1 + 1e-7), expected[:1]) < 1e-3  # one token
    assert np.isnan(difference(expected * np.nan, expected))


@pytest.mark.parametrize(
    ("engine", "by", "figure"),
    [
        ("onnxruntime", 0.002, r"0\.002 .*0\.001 is allowed"),
        (INT8, 0.16, r"0\.16 .*0\.15 is allowed"),
        (INT8, np.nan, "nan"),
    ],
)
@pytest.mark.parametrize("tiles", [None, Tiles(size=32)])
def test_engine_that_disagrees_is_refused(make_tiny, fake, engine, by, figure, tiles):
    fake(moved(by), engine)
    features = make_tiny(engine=engine, tiles=tiles, batch_size=2)
    with pytest.raises(ValueError, match=rf"engine='{engine}'.* {figure}"):
        features.fit(make_images(5))
    assert not [name for name in vars(features) if name.endswith("_")]
    fake(moved(by / 3 if by < 1 else 0), engine)
    clear_engines()
    assert features.fit(make_images(5)).engine_ == engine


def test_fit_compares_on_images_of_its_own(make_tiny, fake):
    """An engine that agreed before in this process is compared again."""
    wrong = []
    fake(lambda tokens: moved(0.1)(tokens) if wrong else tokens)
    features = make_tiny(engine="onnxruntime").fit(make_images(3))
    wrong.append(True)
    with pytest.raises(ValueError, match=r"moves features by 0\.1 "):
        features.fit(make_images(3))


def test_a_new_size_of_images_is_compared_first(make_tiny, fake):
    X, wide = make_images(3), make_images(3, size=(48, 96))
    fake(lambda tokens: moved(0.1 * (tokens.shape[1] > 21))(tokens))
    features = make_tiny(engine="onnxruntime").fit(X)
    features.transform(X)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"moves features by 0\.1 "):
            features.transform(wide)


def test_engine_is_compiled_once_per_size_and_process(make_tiny, fake):
    compiled = fake()
    X = [*make_images(3), *make_images(2, size=(48, 96))]
    for _ in range(2):
        make_tiny(engine="onnxruntime", cache=False).fit(X).transform(X)
    assert sorted(compiled) == [(64, 80), (64, 128)]
    make_tiny(engine="onnxruntime", layers=2).fit(X[:3])
    assert compiled[2:] == [(64, 80)]


def test_compile_hands_the_network_to_torch(make_tiny, fake, monkeypatch):
    """The slow compiler itself is replaced."""
    seen = []
    monkeypatch.setattr(
        torch, "compile", lambda module: (seen.append(module), module)[1]
    )
    X = make_images(5)
    found = make_tiny(cache=False, engine="compile").fit_transform(X)
    assert [type(module).__name__ for module in seen] == ["_Tokens"]
    np.testing.assert_array_equal(found, make_tiny(cache=False).transform(X))


def test_engine_is_part_of_the_key_and_torch_is_not(make_tiny, fake):
    fake(moved(0.0005))
    X = make_images(3)
    plain, other = make_tiny().fit(X), make_tiny(engine="onnxruntime").fit(X)
    expected = plain.transform(X)
    assert not np.array_equal(other.transform(X), expected)
    np.testing.assert_array_equal(plain.transform(X), expected)
    assert plain._shaping() == (None, (5,), True, 1)
    assert other._shaping() == (None, "onnxruntime", (5,), True, 1)


def test_saved_model_keeps_its_engine(make_tiny, fake, tmp_path, monkeypatch):
    fake(moved(0.0005))
    X = make_images(4)
    features = make_tiny(engine="onnxruntime")
    detector = AnomalyDINO(features=features, masking=None).fit(X)
    path = save(detector, tmp_path / "model.skd")
    expected = detector.score_samples(X)
    clear_memory()
    clear_engines()
    again = load(path)
    assert again.features_.engine_ == "onnxruntime"
    np.testing.assert_array_equal(again.score_samples(X), expected)
    monkeypatch.setitem(_engines._NEEDS, "onnxruntime", ("onnxruntime", "no_such_one"))
    clear_memory()
    clear_engines()
    with pytest.raises(ImportError, match=r"no_such_one: .*skdinoad\[onnxruntime\]"):
        load(path).score_samples(X)


def test_detectors_of_different_engines_do_not_merge(make_tiny, fake):
    fake()
    X = make_images(4)
    parts = [
        DinoPatch(features=make_tiny(engine=engine)).fit(X)
        for engine in ("torch", "onnxruntime")
    ]
    with pytest.raises(ValueError, match=r"features_\.engine"):
        merge(parts)


# -- "auto" --------------------------------------------------------------------------


@pytest.fixture
def speed(monkeypatch):
    """Return a list that sets the simulated seconds of the engines, in order."""
    seconds = []
    monkeypatch.setattr(_engines, "_seconds", lambda call: (call(), seconds.pop(0))[1])
    return seconds


@pytest.mark.parametrize(
    ("times", "engine"),
    [([1, 2, 3], "torch"), ([3, 1, 2], "onnxruntime"), ([3, 2, 1], "openvino")],
)
def test_auto_takes_the_fastest(make_tiny, fake, speed, times, engine):
    for name in EXACT:
        fake(name=name)
    speed[:] = times
    X = make_images(3)
    features = make_tiny(engine="auto", cache=False).fit(X)
    assert features.engine_ == engine
    assert ("engine_" in vars(features)) == (engine != "torch")
    again = make_tiny(engine="auto").fit(X[::-1])  # no new timing
    assert (again.engine_, speed) == (engine, [])


def test_auto_leaves_out_what_disagrees_or_fails(make_tiny, fake, speed):
    def failing(tokens):
        raise ValueError("no such operation")

    fake(moved(0.01))
    fake(failing, "openvino")
    speed[:] = [3]
    X = make_images(3)
    features = make_tiny(engine="auto", cache=False).fit(X)
    np.testing.assert_array_equal(
        features.transform(X), make_tiny(cache=False).fit_transform(X)
    )


def test_auto_goes_back_to_torch_on_images_where_the_fastest_disagrees(
    make_tiny, fake, speed
):
    wrong = []
    fake(lambda tokens: moved(0.1)(tokens) if wrong else tokens)
    speed[:] = [3, 1]
    features = make_tiny(engine="auto").fit(make_images(3))
    assert features.engine_ == "onnxruntime"
    wrong.append(True)
    assert features.fit(make_images(3)).engine_ == "torch"


@pytest.mark.usefixtures("bare")
def test_auto_is_torch_where_nothing_is_installed(make_tiny):
    X = make_images(3)
    assert make_tiny(engine="auto").fit(X).engine_ == "torch"


def test_auto_is_torch_in_reduced_precision(make_tiny, fake, speed):
    compiled = fake()
    features = make_tiny(engine="auto", dtype="bfloat16").fit(make_images(2))
    assert (features.engine_, compiled, speed) == ("torch", [], [])


# -- errors --------------------------------------------------------------------------


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("engine", [*EXACT, INT8])
def test_missing_package_names_the_extra(make_tiny, engine):
    extra = engine.removesuffix("-int8")
    with pytest.raises(ImportError, match=rf"skdinoad\[{extra}\].*engine='torch'"):
        make_tiny(engine=engine).fit(make_images(2))


def test_failed_compilation_is_explained(make_tiny, fake, monkeypatch):
    fake()

    def fails(*_):
        raise RuntimeError("operator\n  not known")

    monkeypatch.setitem(_engines._COMPILE, "onnxruntime", fails)
    words = r"engine='onnxruntime' cannot compile .*\(RuntimeError: operator not known"
    with pytest.raises(ValueError, match=words):
        make_tiny(engine="onnxruntime").fit(make_images(2))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"engine": "tensorrt"}, "engine"),
        ({"dtype": "bfloat16"}, "float32 on the CPU.*bfloat16"),
        ({"device": "cuda"}, "float32 on the CPU.*cuda"),
    ],
)
@pytest.mark.filterwarnings("ignore:device='cuda' is not available")
def test_bad_parameters_are_explained(make_tiny, fake, parameters, words):
    fake()
    features = make_tiny(**{"engine": "onnxruntime", **parameters})
    with pytest.raises(ValueError, match=words):
        features.fit(make_images(2))


@pytest.mark.parametrize("engine", ["onnxruntime", "auto"])
def test_engine_needs_images_to_be_compared_on(make_tiny, fake, engine):
    fake()
    features = make_tiny(engine=engine)
    for call in (features.fit, lambda: features.transform(make_images(2))):
        with pytest.raises(
            ValueError, match=f"engine='{engine}' is compared .* fit on"
        ):
            call()
