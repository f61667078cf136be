from zlib import crc32

import cv2
import numpy as np
import pytest
from scipy import ndimage
from sklearn.decomposition import PCA

from skdinoad import PCAAligner, Pipeline, SubspaceAD
from skdinoad.datasets import make_screws, plant_defect
from skdinoad.testing import make_images


@pytest.fixture
def grids(rng):
    """Return features of six normal images, (6, 4, 5, 8), near a 3-d subspace."""
    basis = rng.normal(size=(3, 8))
    F = rng.normal(size=(6, 4, 5, 3)) @ basis + 0.05 * rng.normal(size=(6, 4, 5, 8))
    return F.astype(np.float32)


def official(train, test, share):
    """Reference: the formula of the paper: PCA, residual, mean of the top 1 %."""
    pca = PCA(share, svd_solver="full").fit(train.reshape(-1, train.shape[-1]))
    scores, maps = [], []
    for grid in test:
        x = grid.reshape(-1, grid.shape[-1])
        rest = np.square(x - pca.inverse_transform(pca.transform(x))).sum(1)
        scores.append(np.sort(rest)[::-1][: max(1, round(0.01 * len(rest)))].mean())
        maps.append(rest.reshape(grid.shape[:2]))
    return np.array(scores), np.array(maps)


@pytest.mark.parametrize("share", [0.9, 0.99])
def test_scores_and_maps_are_the_papers(grids, rng, share):
    test = grids[:2] + rng.normal(size=(2, 4, 5, 8)).astype(np.float32)
    detector = SubspaceAD(n_components=share, normalize=False).fit(grids)
    scores, maps = official(grids, test, share)
    assert np.allclose(-detector.score_samples(test), scores, rtol=1e-5)
    assert np.allclose(detector.predict_map(test), maps, rtol=1e-4, atol=1e-6)


def test_features_from_images_are_averaged_layers_as_in_the_paper(make_tiny):
    X = make_images(4)
    features = make_tiny(layers=[0, 1], groups=1, norm=False)
    plain = make_tiny(layers=[0, 1], norm=False)
    F = plain.fit_transform(X)
    averaged = F.reshape(*F.shape[:3], 2, -1).mean(3)
    detector = SubspaceAD(features=features, normalize=False, rotations="none").fit(X)
    scores, _ = official(averaged, averaged, 0.99)
    assert np.allclose(-detector.score_samples(X), scores, rtol=1e-4)
    assert detector.layer_scales_.tolist() == [1]


def test_held_out_scores_are_those_of_a_fit_without_the_fold(grids):
    X = np.concatenate([grids, grids * [1.1]]).astype(np.float32)
    detector = SubspaceAD(normalize=False).fit(X)
    for fold in range(5):
        own = np.arange(12) % 5 == fold
        other = SubspaceAD(normalize=False).fit(X[~own])
        expected = other.score_samples(X[own])
        assert np.allclose(detector.holdout_scores_[own], expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:1 of 7 .* exact copies")
def test_copies_are_held_out_together_and_count_once(grids):
    detector = SubspaceAD(normalize=False).fit(np.concatenate([grids, grids[:1]]))
    assert detector.holdout_scores_.shape == (6,)
    without = SubspaceAD(normalize=False).fit(grids[[1, 2, 3, 4]])  # 0, 5 share a fold
    expected = without.score_samples(grids[:1])
    assert np.allclose(detector.holdout_scores_[0], expected, rtol=1e-4)


def test_layers_have_subspaces_of_their_own_scaled_by_held_out_residuals(rng):
    F = rng.normal(size=(6, 4, 5, 2, 8)).astype(np.float32) * [[1], [100]]
    detector = SubspaceAD(n_components=4, normalize=False, map_layers=[0])
    detector.fit(F.astype(np.float32))
    assert [len(C) for C in detector.components_] == [4, 4]
    assert detector.layer_scales_[1] / detector.layer_scales_[0] > 1000
    one = [
        SubspaceAD(n_components=4, normalize=False).fit(F[..., j, :].astype("f4"))
        for j in (0, 1)
    ]
    maps = [d.predict_map(F[:, :, :, j].astype("f4")) for j, d in enumerate(one)]
    scaled = [m / s for m, s in zip(maps, detector.layer_scales_)]
    assert np.allclose(detector.predict_map(F.astype("f4")), scaled[0], rtol=1e-3)
    top = np.mean(scaled, axis=0).reshape(6, -1).max(1)
    assert np.allclose(-detector.score_samples(F.astype("f4")), top, rtol=1e-3)


def test_invalid_patches_are_neither_learned_nor_scored(grids):
    holes = grids.copy()
    holes[0, 1, 1] = np.nan
    loud = grids.copy()
    loud[0, 1, 1] = 1e4
    detector = SubspaceAD(normalize=False).fit(holes)
    rows = np.isfinite(holes).all(-1)
    pca = PCA(0.99, svd_solver="full").fit(holes[rows])
    assert np.allclose(detector.mean_[0], pca.mean_, atol=1e-5)
    assert detector.predict_map(holes[:1])[0, 1, 1] == 0
    assert detector.predict_map(loud[:1])[0, 1, 1] > 1e6


def test_a_single_image_scores_but_has_no_threshold(grids):
    with pytest.warns(UserWarning, match="single image"):
        detector = SubspaceAD().fit(grids[:1])
    assert detector.score_samples(grids).shape == (6,)
    with pytest.raises(ValueError, match="no threshold"):
        detector.predict(grids)


def test_turned_copies_join_a_few_images_and_make_turned_parts_normal(make_tiny):
    X = make_images(4)
    turned = np.rot90(X, axes=(1, 2))
    few = SubspaceAD(features=make_tiny()).fit(X)
    plain = SubspaceAD(features=make_tiny(), rotations="none").fit(X)
    assert few.angles_ == tuple(range(0, 360, 45))
    assert plain.angles_ == (0,)
    assert few.score_samples(turned).mean() > plain.score_samples(turned).mean()
    with pytest.raises(ValueError, match="only images can be turned"):
        SubspaceAD(rotations=[90]).fit(np.ones((3, 2, 2, 8), np.float32))


def test_grids_of_other_channels_are_refused(grids):
    detector = SubspaceAD().fit(grids)
    with pytest.raises(ValueError, match=r"1 layers with 6 channels.* 1 with 8"):
        detector.score_samples(grids[..., :6])


def test_paper_settings():
    detector = SubspaceAD.from_paper()
    # hidden_states[-18] to [-12] of 41, the first of which are the embeddings.
    assert detector.features.layers == tuple(range(41 - 18 - 1, 41 - 12))
    assert (detector.rotations, detector.n_components) == ("paper", 0.99)
    assert detector.aggregate == "pixels"
    features = detector.features
    assert (features.groups, features.norm, detector.normalize) == (1, False, False)
    assert features.image_size == (672, 672)
    large = SubspaceAD.from_paper(model="vit_large_patch14_dinov2.lvd142m")
    assert large.features.layers == (13, 14, 15, 16, 17)
    small = SubspaceAD.from_paper(model="vit_small_patch14_dinov2.lvd142m")
    assert small.features.layers == (7, 8)
    assert small.features.image_size == (448, 448)
    with pytest.raises(ValueError, match="model='resnet18'"):
        SubspaceAD.from_paper(model="resnet18")


@pytest.mark.filterwarnings("ignore:.*single image")
def test_from_paper_scores_as_the_official_code(make_tiny):
    """One image and its 30 copies, PCA, and the top 1 % of the pixels, by hand."""
    X = make_images(4, size=(64, 64))
    features = make_tiny(layers=(1, 2), groups=1, norm=False, image_size=(64, 64))
    detector = SubspaceAD.from_paper(features=features).fit(X[:1])
    copies = []
    for angle in np.random.default_rng(crc32(X[0])).uniform(0, 345, 30):
        turn = cv2.getRotationMatrix2D((31.5, 31.5), angle, 1)  # black beyond
        copies.append(cv2.warpAffine(X[0], turn, (64, 64), flags=cv2.INTER_NEAREST))
    grids = features.fit_transform(X)
    train = np.concatenate([grids[:1], features.transform(np.stack(copies))])
    _, maps = official(train, grids, 0.99)
    scores = []
    for heat in maps.astype(np.float32):
        pixels = cv2.GaussianBlur(cv2.resize(heat, (64, 64)), (3, 3), 4).ravel()
        scores.append(np.sort(pixels)[-int(0.01 * pixels.size) :].mean())
    assert detector.angles_ == "paper"
    np.testing.assert_allclose(-detector.score_samples(X), scores, rtol=1e-3)


def test_model_does_not_grow_with_the_images(grids, rng):
    def size(F):
        detector = SubspaceAD(n_components=4).fit(F)
        return sum(C.nbytes for C in detector.components_)

    assert size(
        np.tile(grids, (9, 1, 1, 1)) + rng.normal(size=(54, 1, 1, 1)).astype("f4")
    ) == size(grids)


@pytest.mark.real
def test_planted_defect_is_the_maximum_also_through_the_aligner(real_features):
    X, _ = make_screws(12)
    bad, masks = make_screws(2, defect="scratch", random_state=1)
    for pipe in (
        SubspaceAD(features=real_features()),
        Pipeline([PCAAligner(), SubspaceAD(features=real_features())]),
    ):
        for heat, mask in zip(pipe.fit(X).predict_map(bad), masks):
            y, x = np.unravel_index(np.argmax(heat), heat.shape)
            assert ndimage.binary_dilation(mask, iterations=10)[y, x]


@pytest.mark.real
def test_planted_defect_is_found_in_a_real_photograph(real_features):
    data = pytest.importorskip("skimage.data")
    brick = np.stack([data.brick()] * 3, -1)
    corners = range(0, 384, 128)
    crops = [brick[y : y + 128, x : x + 128] for y in corners for x in corners]
    bad, mask = plant_defect(crops[4], kind="blob", size=0.3, random_state=1)
    detector = SubspaceAD(features=real_features(), rotations="none")
    detector.fit(crops[:4] + crops[5:])
    maps = detector.predict_map(np.stack([bad, crops[4]]))
    assert mask[np.unravel_index(maps[0].argmax(), mask.shape)]
    assert detector.predict(np.stack([bad, crops[4]])).tolist() == [-1, 1]
