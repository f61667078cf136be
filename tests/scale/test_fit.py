"""Detectors merged and fitted in shards equal one fit."""

import warnings

import joblib
import numpy as np
import pytest
from conftest import tiny_features
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import skdinoad
from skdinoad import (
    DFR,
    AnomalyDINO,
    DinoPatch,
    ForegroundMask,
    LinearDFR,
    LocalBank,
    MemoryBank,
    PCAAligner,
    Pipeline,
    ScoreCleaning,
    SubspaceAD,
    Training,
    save,
)
from skdinoad.scale import (
    cache_features,
    fit_sharded,
    merge,
)
from skdinoad.testing import make_images

LEARNED = [
    *("holdout_scores_", "offset_", "layer_scales_", "map_limits_"),
    "pixel_threshold_",
]


@pytest.fixture
def grids(rng):
    """Features of eleven images in two layers; the last two show what others show."""
    F = rng.normal(size=(9, 5, 6, 2, 8)).astype(np.float32)
    F[2, :2, 3] = np.nan
    return np.concatenate([F, F[[0, 7]]])


def plain(**parameters):
    return AnomalyDINO(masking=None).set_params(**{"bank__size": None, **parameters})


def in_parts(F):
    return [F[:4], F[4:5], F[5:]]


def quietly(call, *arguments, **parameters):
    """What shards say of copies and single images is not the question."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return call(*arguments, **parameters)


def assert_same(detector, whole, new, **tolerance):
    """Both learned the same and score the same; exactly, if no tolerance is given."""
    for name in LEARNED:
        a, b = getattr(detector, name), getattr(whole, name)
        np.testing.assert_allclose(a, b, **{"rtol": 0, **tolerance}, err_msg=name)
    for method in ("score_samples", "predict_map"):
        a, b = getattr(detector, method)(new), getattr(whole, method)(new)
        np.testing.assert_allclose(a, b, **{"rtol": 0, **tolerance}, err_msg=method)


def kinds(**parameters):
    return {
        "AnomalyDINO": plain(**parameters),
        "three neighbours": plain(bank__n_neighbors=3, **parameters),
        "nearest images": plain(bank__nearest_images=2, **parameters),
        "nearest objects": AnomalyDINO(
            masking=ForegroundMask(masking=True),
            **parameters,
            bank=MemoryBank(nearest_images=2, size=None),
        ),
        "masks": AnomalyDINO(**parameters, bank=MemoryBank(size=None)),
        "masks as zeros": AnomalyDINO(
            masking=ForegroundMask(masking=True, morphology="raster"),
            **parameters,
            bank=MemoryBank(size=None),
        ),
        "DinoPatch": DinoPatch(**parameters),
        "DinoPatch all over": DinoPatch(
            baseline="subtract",
            **parameters,
            bank=LocalBank(global_weight=0.5),
            cleaning=ScoreCleaning(quantile=0.2),
        ),
    }


# -- merge ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds())
def test_merged_whole_banks_equal_one_fit(grids, rng, kind):
    new = rng.normal(size=(3, 5, 6, 2, 8)).astype(np.float32)
    estimator = kinds()[kind]
    parts = [quietly(kinds()[kind].fit, part) for part in in_parts(grids)]
    before = joblib.hash(parts)
    with pytest.warns(UserWarning, match=r"2 of 11 .* \(image 9 of image 0,") as said:
        merged = merge(parts)
    assert said[0].filename == __file__
    assert_same(merged, quietly(estimator.fit, grids), new)
    assert len(merged.holdout_scores_) == 9  # copies in different parts count once
    assert joblib.hash(parts) == before


def test_held_out_scores_of_a_part_are_lowered_by_the_others(grids):
    F = grids[..., :1, :]  # several layers would be scaled anew
    parts = [plain().fit(F[:4]), plain().fit(F[4:9])]
    alone = np.concatenate([part.holdout_scores_ for part in parts])
    together = merge(parts).holdout_scores_
    assert (together >= alone).all()  # scores: higher = nearer
    assert (together > alone).any()


def test_merging_goes_on(grids):
    """A merged detector can be merged, learn more, and be saved."""
    F = grids[:9]
    left = merge([plain().fit(F[:3]), plain().fit(F[3:5])]).partial_fit(F[5:7])
    merged = merge([left, plain().fit(F[7:])])
    assert_same(merged, plain().fit(F), F[::-1], atol=1e-7)
    patch = merge([DinoPatch().fit(F[:3]), DinoPatch().fit(F[3:7])]).partial_fit(F[7:])
    assert_same(patch, DinoPatch().fit(F), F[::-1])


@pytest.mark.parametrize("rotations", ["auto", "agnostic", "informed", "none", (0, 90)])
def test_turned_copies_are_those_of_one_fit(rotations):
    """Under "auto" each part turns its few images, and all together are not few."""
    how = {"features": tiny_features(), "rotations": rotations}
    X = [np.rot90(x, i) for i, x in enumerate(make_images(10, size=(64, 64)))]
    parts = [plain(**how).fit(X[:5]), plain(**how).fit(X[5:])]
    merged, whole = merge(parts), plain(**how).fit(X)
    assert_same(merged, whole, X[:3])
    assert merged.angles_ == whole.angles_
    np.testing.assert_array_equal(merged.bank_.image, whole.bank_.image)
    np.testing.assert_array_equal(merged.bank_.turned, whole.bank_.turned)
    assert merged.hidden_pixels_ is False


def test_detectors_that_turned_unlike_each_other_are_refused():
    X, how = make_images(10), {"features": tiny_features(), "rotations": "informed"}
    parts = [plain(**how).fit(X[:5]), plain(**how).fit(X[5:])]
    assert len({part.angles_ for part in parts}) == 2
    bare = [part for part in parts if part.angles_ == (0,)]
    assert quietly(merge, bare * 2).angles_ == (0,)
    with pytest.raises(
        ValueError, match="fit_sharded, or fit them with rotations='agnostic'"
    ):
        merge(parts)


def test_a_thinned_bank_is_within_the_bound_of_its_coresets(grids, rng):
    """No vector is farther from the bank than what thinning dropped it for, twice."""
    F = grids[:9, ..., :1, :]
    parts = [plain(bank__size=60).fit(part) for part in (F[:4], F[4:])]
    merged, whole = merge(parts), plain().fit(F)
    assert len(merged.bank_) == 60
    united = np.concatenate([part.bank_.vectors for part in parts])
    radius = max(
        _farthest(whole.bank_.vectors, united), _farthest(united, merged.bank_.vectors)
    )
    new = rng.normal(size=(3, 5, 6, 1, 8)).astype(np.float32)
    a, b = (np.sqrt(-2 * d.score_samples(new)) for d in (merged, whole))
    assert (a >= b - 1e-6).all()
    assert (a <= b + 2 * radius).all()
    assert len(merged.holdout_scores_) == 9


def _farthest(vectors, bank):
    away = np.linalg.norm(vectors[:, None] - bank[None], axis=2)
    return away.min(1).max()


def test_half_precision_costs_its_rounding(grids):
    parts = [plain(bank__dtype="float16").fit(grids[i : i + 4]) for i in (0, 4)]
    whole = plain(bank__dtype="float16").fit(grids[:8])
    assert_same(merge(parts), whole, grids[:3], atol=2e-3)


def test_others_are_refused_by_name(grids):
    good = DinoPatch().fit(grids[:3])
    for other in (DFR(), SubspaceAD(), Pipeline([PCAAligner(), DinoPatch()])):
        with pytest.raises(
            TypeError, match=f"{type(other).__name__} cannot .* DinoPat"
        ):
            merge([good, other])
        with pytest.raises(TypeError, match="AnomalyDINO and DinoPatch can"):
            fit_sharded(other, [grids])
    with pytest.raises(TypeError, match=r"detectors\[1\] is AnomalyDINO, detectors\[0"):
        merge([good, plain().fit(grids[:3])])
    with pytest.raises(NotFittedError):
        merge([good, DinoPatch()])
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])


def test_what_differs_is_named(grids, make_tiny):
    good = DinoPatch().fit(grids[:3])
    with pytest.raises(ValueError, match=r"detectors\[1\] differs .* in bank:"):
        merge([good, DinoPatch(bank=LocalBank(metric="cosine")).fit(grids[:3])])
    X = make_images(3)
    few = DinoPatch(features=make_tiny(layers=0)).fit(X)
    with pytest.raises(ValueError, match=r"features_\.layers"):
        merge([few, DinoPatch(features=make_tiny(layers=1)).fit(X)])
    with pytest.raises(ValueError, match="features_"):
        merge([good, few])
    deep = DinoPatch(features=make_tiny(layers=0)).fit(X.astype(np.uint16) * 9)
    with pytest.raises(ValueError, match=r"value_range_: .* scaled to 8 bits"):
        merge([few, deep])
    with pytest.raises(ValueError, match="grid of shape"):
        merge([good, DinoPatch().fit(grids[:3, :4])])
    with pytest.raises(ValueError, match="A detector has features of 6 channels"):
        merge([plain().fit(grids[:2]), plain().fit(grids[:2, ..., :3])])
    other = DinoPatch(features=make_tiny(layers=0, batch_size=2), verbose=True).fit(X)
    quietly(merge, [few, other])  # where and how fast is no difference


@pytest.mark.parametrize(
    "reduced",
    [{"bank__n_prototypes": 2}, {"bank__max_images": 2}, {"bank__n_components": 2}],
)
def test_reduced_banks_without_their_features_are_refused(grids, reduced):
    whole = DinoPatch().set_params(**reduced)
    parts = [clone(whole).fit(grids[i : i + 4]) for i in (0, 4)]
    with pytest.raises(ValueError, match=r"detectors\[0\] keeps a reduced bank"):
        merge(parts)


def subspaces(**parameters):
    return SubspaceAD(**{"rotations": "none", "n_components": 3, **parameters})


def linear(**parameters):
    how = {"holdout": None, "max_rows": None, "latent_dim": 4}
    return LinearDFR(**{**how, **parameters})


@pytest.mark.parametrize("layers", [1, 2])
def test_subspaces_add_up(grids, rng, layers):
    F = grids[..., :layers, :]
    parts = [quietly(subspaces().fit, part) for part in in_parts(F)]
    before = joblib.hash(parts)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        merged = merge(parts)
    assert ["no threshold" in str(w.message) for w in said] == [False, True]
    assert {w.filename for w in said} == {__file__}
    assert joblib.hash(parts) == before
    whole = quietly(subspaces().fit, F)
    for a, b in zip(merged.mean_, whole.mean_):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(merged.components_, whole.components_):  # signs are free
        np.testing.assert_allclose(a.T @ a, b.T @ b, atol=1e-5)
    # Layers compare by all patches learned: those of a fit, its scales replaced.
    left = np.concatenate(
        [whole._residuals_of(F, [(whole.mean_, whole.components_)]) for F in F[:, None]]
    )
    expected = [np.nanmean(left[:, j]) for j in range(layers)]
    scales = np.array(expected if layers > 1 else [1], np.float32)
    np.testing.assert_allclose(merged.layer_scales_, scales, rtol=1e-5)
    whole._fusion.scales = scales
    new = rng.normal(size=(3, 5, 6, layers, 8)).astype(np.float32)
    for method in ("score_samples", "predict_map"):
        a, b = getattr(merged, method)(new), getattr(whole, method)(new)
        np.testing.assert_allclose(a, b, rtol=1e-4, err_msg=method)
    with pytest.raises(ValueError, match="offset_ is NaN"):
        merged.predict(new)


def test_random_rotations_of_merged_subspaces_are_those_of_one_fit():
    X = make_images(6, size=(32, 32))
    how = {"features": tiny_features(image_size=32), "rotations": "paper"}
    whole = subspaces(**how).fit(X[::-1])
    merged = quietly(merge, [subspaces(**how).fit(part) for part in (X[:3], X[3:])])
    for a, b in zip(merged.mean_, whole.mean_):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_merging_of_subspaces_goes_on_through_a_file(grids, tmp_path):
    a, b, c = (quietly(subspaces().fit, part) for part in in_parts(grids))
    left = skdinoad.load(save(quietly(merge, [a, b]), tmp_path / "left.skd"))
    found, expected = quietly(merge, [left, c]), quietly(merge, [a, b, c])
    np.testing.assert_allclose(
        found.score_samples(grids), expected.score_samples(grids), rtol=1e-5
    )


def test_subspaces_that_are_not_of_one_fit_are_refused(grids):
    X, tiny = make_images(10), tiny_features()
    turned = [SubspaceAD(features=tiny).fit(part) for part in (X[:5], X[5:])]
    with pytest.raises(ValueError, match=r"turned by \(0, 45.* rotations='agnostic'"):
        merge(turned)
    other = subspaces().fit(grids[:2, ..., :1, :])
    with pytest.raises(ValueError, match=r"detectors\[1\] has features of 1 layers"):
        merge([subspaces().fit(grids[2:4]), other])
    with pytest.raises(TypeError, match="can be merged only"):
        fit_sharded(subspaces(), [grids])


@pytest.mark.parametrize(
    "how", [{}, {"standardize": False, "variance": 0.5}, {"latent_dim": None}]
)
def test_linear_autoencoders_add_up(grids, rng, how):
    F = grids.reshape(11, 5, 6, 16)
    F[:, 0] *= 7
    parts = [quietly(linear(**how).fit, part) for part in in_parts(F)]
    before, whole = joblib.hash(parts), quietly(linear(**how).fit, F)
    new = rng.normal(size=(3, 5, 6, 16)).astype(np.float32)
    merged = quietly(merge, parts)
    sharded = quietly(fit_sharded, linear(**how), in_parts(F))
    again = quietly(merge, [quietly(merge, parts[:2]), parts[2]])
    for found in (merged, sharded, again):
        assert found.latent_dim_ == whole.latent_dim_
        np.testing.assert_allclose(
            found.explained_variance_, whole.explained_variance_, rtol=1e-5
        )
        for method in ("score_samples", "predict_map"):
            a, b = getattr(found, method)(new), getattr(whole, method)(new)
            np.testing.assert_allclose(a, b, rtol=1e-4, err_msg=method)
    assert joblib.hash(parts) == before
    assert np.isnan(merged.offset_)
    assert merged.errors_ == {}


@pytest.mark.parametrize("how", [{"holdout": 2}, {"max_rows": 9}])
def test_what_more_than_moments_shape_is_refused(grids, how):
    with pytest.raises(TypeError, match=r"LinearDFR cannot .* with holdout=None"):
        merge([linear(**how)])
    with pytest.raises(TypeError, match="cache_features, and one fit"):
        fit_sharded(linear(**how), [grids])


def test_linear_autoencoders_of_other_features_are_refused(grids):
    F = grids[..., 0, :]
    a, b = linear().fit(F[:3]), linear().fit(F[3:6, ..., :6])
    with pytest.raises(ValueError, match=r"\[8, 6\] channels: use one"):
        merge([a, b])


# -- fit_sharded ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        *kinds().values(),
        plain(bank__size=70),
        plain(bank__size=0.3, bank__dtype="float16"),
        plain(bank__size=50, bank__sampling="random", random_state=0),
        AnomalyDINO(rotations="informed", target_fpr=0.2),
        DinoPatch(bank=LocalBank(metric="cosine", n_prototypes=3, dtype="float16")),
        DinoPatch(target_fpr=0.2, bank=LocalBank(max_images=4, n_components=3)),
        DinoPatch(bank=LocalBank(n_components=3, pca="local", neighborhood=0)),
    ],
    ids=lambda estimator: " ".join(repr(estimator).split()),
)
def test_fit_on_shards_equals_one_fit(grids, rng, estimator):
    new = rng.normal(size=(3, 5, 6, 2, 8)).astype(np.float32)
    found = quietly(fit_sharded, estimator, in_parts(grids))
    assert not hasattr(estimator, "offset_")
    assert repr(found.get_params()) == repr(estimator.get_params())
    assert_same(found, quietly(estimator.fit, grids), new)


def test_informed_turns_are_decided_on_all_images():
    X, how = make_images(10), {"features": tiny_features(), "rotations": "informed"}
    whole = AnomalyDINO(**how).fit(X)
    found = fit_sharded(AnomalyDINO(**how), [X[:4], X[4:]])
    assert found.rotation_gain_ == whole.rotation_gain_
    assert found.angles_ == whole.angles_


def test_backends_of_joblib_fit_the_same(photos):
    paths = sorted(map(str, (photos / "good").iterdir()))
    estimator = AnomalyDINO(features=tiny_features(), bank=MemoryBank(size=60))
    shards = [paths[:3], paths[3:]]
    with joblib.parallel_config(backend="threading", n_jobs=2):
        found = fit_sharded(estimator, shards)
    assert_same(found, fit_sharded(estimator, shards), paths)


def test_errors_name_the_shard(photos, grids, make_tiny, make_tiny_cnn):
    paths = sorted(map(str, (photos / "good").iterdir()))
    (photos / "good/5.png").write_bytes(b"no image")
    detector = DinoPatch(features=make_tiny())
    with pytest.raises(ValueError, match=r"^shards\[1\]: X\[2\] .*5\.png"):
        fit_sharded(detector, [paths[:3], paths[3:]])
    with pytest.raises(ValueError, match=r"shards\[1\]: X is empty"):
        fit_sharded(detector, [paths[:3], []])
    with pytest.raises(ValueError, match="No shard"):
        fit_sharded(detector, [])
    with pytest.raises(ValueError, match="'neighborhood' parameter"):
        fit_sharded(DinoPatch(bank=LocalBank(neighborhood=-1)), [grids])
    with pytest.raises(ValueError, match="pass standardize=False"):
        fit_sharded(DinoPatch(features=make_tiny_cnn()), [paths])
    with pytest.raises(TypeError, match=r"expected a dask\.distributed.Client"):
        fit_sharded(detector, [paths[:3]], client="localhost")


# -- cache_features -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DFR", "SubspaceAD"])
def test_a_fit_after_the_features_asks_no_network(
    photos, tmp_path, monkeypatch, kind, make_tiny_cnn
):
    paths = sorted(map(str, (photos / "good").iterdir()))
    make = {"DFR": make_tiny_cnn, "SubspaceAD": tiny_features}[kind]
    own = {
        "DFR": {"training": Training(n_iter=30), "holdout": 2},
        "SubspaceAD": {"rotations": "none"},
    }
    cls = getattr(skdinoad, kind)
    whole = quietly(cls(features=make(cache=False), **own[kind]).fit, paths)
    features = make(cache=tmp_path)
    cache_features(features, [paths[:3], paths[3:]])
    assert not hasattr(features, "weights_digest_")
    with monkeypatch.context() as patched:
        asked = []
        patched.setattr(type(features), "_run", lambda *_: asked.append(1))
        detector = quietly(cls(features=features, **own[kind]).fit, paths)
        np.testing.assert_allclose(detector.offset_, whole.offset_, rtol=1e-4)
        assert not asked


def test_features_that_cannot_be_shared_are_named(photos, tmp_path, make_tiny):
    paths = sorted(map(str, (photos / "good").iterdir()))
    for cache in (None, False):
        with pytest.raises(ValueError, match="keeps no features on disk: pass cache="):
            cache_features(make_tiny(cache=cache), [paths])
    features = make_tiny(cache=tmp_path)
    deep = make_images(3).astype(np.uint16) * 9
    with pytest.raises(ValueError, match=r"shards\[1\]: images of more than 8 bits"):
        cache_features(features, [paths, deep])
    with pytest.raises(FileNotFoundError, match=r"shards\[0\]: X\[0\] .*none"):
        cache_features(features, [[str(photos / "none.png")]])
    with pytest.raises(TypeError, match=r"expected a dask\.distributed.Client"):
        cache_features(features, [paths], client="localhost")
