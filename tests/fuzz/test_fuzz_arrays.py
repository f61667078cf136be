"""Any array, list or label: right scores, or an error that names the row."""

import numpy as np
import pytest
from fuzzing import QUICK, SIZE, SLOW, attempt, check_output, fitted, fresh, out
from hypothesis import given
from hypothesis import strategies as st

#: How messages call what is wrong: a row, X as a whole, or features.
NAMED = r"X\[\d+\]|\bX (is|has|holds)|\bimages?\b"

DTYPES = ["u1", "u2", "f4", "f8", "f2", "i8", "i2", "?", "c8", "M8[s]", "U3", "O", "S1"]

#: The shapes of one image; (48, 64) is that of fit.
SHAPES = [
    (*SIZE, 3),
    (*SIZE, 3),
    SIZE,
    (*SIZE, 1),
    (*SIZE, 4),
    (*SIZE, 2),
    (3, *SIZE),
    (64, 48, 3),
    (96, 128, 3),
    (1, 1, 3),
    (1, 60),
    (60, 1, 4),
    (5, 7, 3),
    (0, 64, 3),
    (48, 0),
    (48,),
    (),
    (2, 2, 2, 2, 3),
    (3, 4, 8),
]

#: What is put at some places of an image.
SPOTS = [None, 0, 1, -1, 255, 65535, np.nan, np.inf, -np.inf, 1e-40, 1e30, 0.4999]


@st.composite
def images(draw, shape=None):
    """Return one image, or what somebody took for one."""
    shape = draw(st.sampled_from(SHAPES)) if shape is None else shape
    dtype = np.dtype(draw(st.sampled_from(DTYPES + ["u1", "f8"] * 5)))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    top = {"u": 255**dtype.itemsize, "f": 1.0}.get(dtype.kind, 100)
    with np.errstate(all="ignore"):
        image = np.asarray(np.array(rng.uniform(size=shape)) * top).astype(dtype)
        spot = draw(st.sampled_from(SPOTS))
        if spot is not None and dtype.kind in "uifc" and image.size:
            part = image if draw(st.booleans()) else image.reshape(-1)[:1]
            part[...] = np.array(spot, float).astype(dtype)
    return laid_out(image, draw(st.sampled_from(["C", "F", "swap", "step", "flip"])))


def laid_out(image, how):
    """Return the same image, stored in another way, that may not be written to."""
    image = np.array(image, order="F" if how == "F" else "C")

    if how == "swap":
        image = image.astype(image.dtype.newbyteorder())
    if how == "step" and image.ndim:
        image = np.repeat(image, 2, axis=0)[::2]
    if how == "flip" and image.ndim:
        image = image[::-1].copy()[::-1]
    image.flags.writeable = False
    return image


def plain(image):
    """Return an image as numpy would have made it."""
    return np.array(image, image.dtype.newbyteorder("="), order="C")


@st.composite
def batches(draw):
    """Return several images as one array, or as a list."""
    if draw(st.booleans()):
        return draw(st.lists(images(), max_size=4))
    one = draw(images())
    n = draw(st.integers(0, 3))
    batch = np.stack([one] * n) if n else np.empty((0, *one.shape), one.dtype)
    return laid_out(batch, draw(st.sampled_from(["C", "F", "swap", "step", "flip"])))


def copied(X):
    return [plain(x) for x in X] if isinstance(X, list) else plain(X)


def unchanged(X, before):
    pairs = zip(X, before) if isinstance(X, list) else [(X, before)]
    return all(a.tobytes() == b.tobytes() for a, b in ((plain(a), b) for a, b in pairs))


def check_scoring(name, X):
    """The same images in plain memory get the same; X is as it was."""
    estimator, before = fitted(name), copied(X)
    result = attempt(lambda: out(estimator, X), NAMED)
    assert unchanged(X, before)
    if result is None:
        return
    check_output(estimator, len(X), result)
    for a, b in zip(result, out(estimator, before)):
        np.testing.assert_array_equal(a, b)
    if hasattr(estimator, "predict_map"):
        check_maps(estimator.predict_map(X), X)


def check_maps(maps, X):
    assert [heat.shape for heat in maps] == [np.shape(x)[:2] for x in X]
    assert all(np.isfinite(heat).all() and (heat >= 0).all() for heat in maps)


@pytest.mark.parametrize("name", QUICK + SLOW)
@given(X=batches())
def test_any_array_is_scored_or_named(name, X):
    check_scoring(name, X)


@pytest.mark.parametrize("name", QUICK)
@given(X=batches())
def test_any_array_is_learned_from_or_named(name, X):
    estimator, before = fresh(name), copied(X)
    result = attempt(lambda: out(estimator.fit(X), X), NAMED)
    assert unchanged(X, before)
    if result is not None:
        check_output(estimator, len(X), result)
