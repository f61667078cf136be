import numpy as np
import pytest
from sklearn.base import clone

from skdinoad import AffineAligner, DinoPatch, Pipeline
from skdinoad._arrays.geometry import warp
from skdinoad.alignment._affine import _VIEW, _step, _whole
from skdinoad.datasets import make_screws
from skdinoad.testing import make_images

#: A tiny random network estimates poses badly; these tests do not check accuracy.
pytestmark = pytest.mark.filterwarnings("ignore:The poses of the training images")


@pytest.fixture(scope="module")
def real_aligner(real_features):
    """Return an aligner fitted on screws in all orientations."""
    X, _ = make_screws(8, size=256, random_state=0)
    features = real_features(image_size=None, layers=7)
    aligner = AffineAligner(
        features=features, output_size=224, n_samples=100, n_rounds=1
    )
    return aligner.fit(X)


def angle_of(affine):
    return np.rad2deg(np.arctan2(affine[1, 0], affine[0, 0]))


def moved(image, angle, shift, zoom):
    """Return an image with moved content, and the frame (new -> old pixel)."""
    out, back = _whole(image), _step(np.deg2rad(angle), shift, np.log(zoom))
    affine = out @ back @ np.linalg.inv(out)
    return warp(image, affine, image.shape[:2]), affine


@pytest.mark.real
@pytest.mark.parametrize(
    ("angle", "shift", "zoom"),
    [(90, (0, 0), 1), (-150, (0.05, -0.05), 1.1), (30, (0.1, 0.05), 0.85)],
)
def test_a_moved_part_is_seen_as_before(real_aligner, angle, shift, zoom):
    image = make_screws(1, size=256, random_state=5)[0][0]
    other, affine = moved(image, angle, shift, zoom)
    _, (a, b), flags = real_aligner.align([image, other])
    assert not flags["uncertain"].any()
    left = np.linalg.inv(a) @ affine @ b  # the identity if the estimate is exact
    assert abs(angle_of(left)) < 12
    middle = (left @ [111.5, 111.5, 1])[:2] - 111.5
    assert np.hypot(*middle) < 0.06 * 224
    assert abs(np.log(np.linalg.det(left[:2, :2]) / 2)) < np.log(2) + 0.2


@pytest.mark.real
def test_parts_in_all_directions_come_to_lie_in_one(real_aligner):
    X, _ = make_screws(6, size=256, random_state=9)
    Z = real_aligner.transform(X)
    axes = []
    for z in Z:
        y, x = np.nonzero(z[..., :3].min(-1) > 150)
        _, vector = np.linalg.eigh(np.cov(x, y))
        axes.append(np.rad2deg(np.arctan2(vector[1, 1], vector[0, 1])))
    spread = np.exp(2j * np.deg2rad(axes))  # an axis has no sign
    assert abs(spread.mean()) > 0.95
    assert real_aligner.angle_error_ < 30
    assert real_aligner.confidence_ > 0.6


@pytest.mark.real
def test_planted_defect_lands_in_the_source(real_aligner, real_features):
    X, _ = make_screws(6, size=256, random_state=1)
    bad = make_screws(1, size=256, random_state=7)[0]
    ys, xs = np.nonzero(bad[0].min(-1) > 150)
    place = np.array([np.median(ys), np.median(xs)]).astype(int)
    bad[0, place[0] - 10 : place[0] + 10, place[1] - 10 : place[1] + 10] = [180, 0, 90]
    detector = DinoPatch(features=real_features(image_size=224))
    Z = real_aligner.transform(X)
    heat = Pipeline([real_aligner, detector.fit(Z)]).predict_map(bad)[0]
    peak = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(np.subtract(peak, place)).max() < 24


def quick(make_tiny, **parameters):
    features = make_tiny(image_size=None)
    parameters = {"output_size": 64, "n_samples": 20, **parameters}
    return AffineAligner(features=features, **parameters)


def test_alpha_tells_what_lies_outside_the_photograph(make_tiny):
    X = make_images(3, size=(48, 96))
    limits = {"max_angle": 0, "max_shift": 0, "max_zoom": 1}
    aligner = quick(make_tiny, **limits).fit(X)
    Z, affines = aligner.transform_affines(X)
    assert (Z[:, 20:44, 4:60, 3] == 255).all()
    assert not Z[:, :12, :, 3].any()  # a strip in a square
    np.testing.assert_allclose(affines[0] @ [31.5, 31.5, 1], [47.5, 23.5, 1], atol=2)


def test_seed_decides_all(make_tiny):
    X = make_images(3)
    one_fit = quick(make_tiny).fit(X)
    one = one_fit.transform(X)
    assert np.array_equal(quick(make_tiny).fit(X).transform(X), one)
    other = clone(quick(make_tiny)).set_params(random_state=1).fit(X)
    assert not np.array_equal(
        other.regressors_[0][-1].coef_, one_fit.regressors_[0][-1].coef_
    )


def test_anomalous_rows_teach_nothing(make_tiny):
    X = make_images(5)
    X[3:] = 255 - X[3:]
    labelled = quick(make_tiny).fit(X, [1, 1, 1, -1, -1])
    alone = quick(make_tiny).fit(X[:3])
    assert np.array_equal(labelled.transform(X), alone.transform(X))


def test_steps_compose_to_what_was_done():
    there = _step(0.3, (0.1, -0.05), 0.2)
    centre = (_VIEW - 1) / 2
    middle = there @ [centre, centre, 1]
    np.testing.assert_allclose(middle[:2] - centre, [0.1 * _VIEW, -0.05 * _VIEW])
    assert np.linalg.det(there[:2, :2]) == pytest.approx(np.exp(-0.4))


@pytest.mark.real
def test_parts_without_a_direction_are_reported(real_features, rng):
    y, x = np.mgrid[:120, :120]
    disc = np.hypot(x - 59.5, y - 59.5) < 35
    X = np.full((4, 120, 120, 3), 40, np.uint8)
    X[:, disc] = 200
    X += rng.integers(0, 9, X.shape, dtype=np.uint8)
    aligner = AffineAligner(
        features=real_features(image_size=None, layers=7), n_samples=10, n_rounds=1
    )
    with pytest.warns(UserWarning, match="can hardly be estimated"):
        aligner.fit(X)
    assert aligner.align(X)[2]["uncertain"].all()


def test_what_is_transparent_has_no_say(make_tiny, rng):
    X = make_images(3)
    clear = np.concatenate([X, np.full_like(X[..., :1], 255)], axis=-1)
    clear[:, :, :20, 3] = 0
    other = clear.copy()
    other[:, :, :20, :3] = rng.integers(0, 255, (3, 48, 20, 3))
    aligner = quick(make_tiny).fit(clear)
    affines = [aligner.transform_affines(images)[1] for images in (clear, other)]
    assert np.array_equal(*affines)


def test_features_of_the_default_can_be_searched():
    aligner = AffineAligner().set_params(features__model="test_vit")
    assert aligner.features.image_size is None


def test_unfit_extractors_are_explained(make_tiny):
    with pytest.raises(TypeError, match="lacks"):
        AffineAligner(features="passthrough").fit(make_images(2))
