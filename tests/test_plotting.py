import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay
from sklearn.model_selection import GridSearchCV, KFold

from skdinoad import (
    DFR,
    AnomalyDINO,
    DinoPatch,
    PCAAligner,
    Pipeline,
    ThresholdTunerCV,
    iter_maps,
)
from skdinoad.metrics import aupro_score, image_ap_score, image_auroc_score
from skdinoad.plotting import (
    AlignmentDisplay,
    AnomalyMapDisplay,
    ProCurveDisplay,
    ScoreHistogramDisplay,
    overlay_map,
    save_maps,
)
from skdinoad.testing import make_images


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def X():
    return make_images(12, size=(64, 64))


@pytest.fixture
def pipe(tiny, X):
    pipe = Pipeline([PCAAligner(mode="none", output_size=64), DinoPatch(features=tiny)])
    return pipe.fit(X[:8])


def defective(X):
    bad, masks = X.copy(), np.zeros(X.shape[:3], bool)
    masks[:, 40:50, 10:30] = True
    bad[masks] = [255, 0, 255]
    return bad, masks


def test_limits_decide_and_not_the_map_itself(rng):
    image = rng.integers(0, 255, (8, 9, 3), np.uint8)
    quiet = rng.random((8, 9))
    assert np.array_equal(overlay_map(image, quiet, limits=(1, 2)), image)
    assert (overlay_map(image, quiet + 5, limits=(1, 2)) != image).any()


def test_hotter_covers_more():
    image = np.zeros((1, 3, 3), np.uint8)
    out = overlay_map(image, np.array([[0.0, 0.5, 1.0]]), limits=(0, 1))
    brightness = out.sum(-1)[0]
    assert brightness[0] == 0 < brightness[1] < brightness[2]
    assert out.dtype == np.uint8


# -- maps ---------------------------------------------------------------------------


def test_maps_stand_below_their_images(pipe, X):
    bad, masks = defective(X[8:10])
    shown = np.concatenate([X[8:9], bad])
    display = AnomalyMapDisplay.from_estimator(pipe, shown, masks=[None, *masks])
    assert display.axes_.shape == (2, 3)
    assert display.limits == pipe[-1].map_limits_
    top, bottom = display.axes_[:, 1]
    assert np.array_equal(top.images[0].get_array(), shown[1])
    expected = overlay_map(shown[1], display.maps[1], limits=display.limits)
    assert np.array_equal(bottom.images[0].get_array(), expected)
    assert len(top.collections) == 1  # the outline
    assert not display.axes_[0, 0].collections
    titles = [ax.get_title() for ax in display.axes_[0]]
    verdicts = ["normal" if v == 1 else "ANOMALOUS" for v in pipe.predict(shown)]
    assert [title.split(" ")[0] for title in titles] == verdicts


def test_maps_of_a_perfect_part_stay_dark(pipe, X):
    """With limits of its own each would have its hottest pixel in full colour."""
    display = AnomalyMapDisplay.from_estimator(pipe, X[8:])
    for ax, image in zip(display.axes_[1], X[8:]):
        shown = np.asarray(ax.images[0].get_array(), int)
        assert np.abs(shown - image).mean() < 30


def test_limits_are_never_guessed(X, make_tiny_cnn):
    cnn = make_tiny_cnn(standardize=False)
    detector = DFR(features=cnn, autoencoder="linear", latent_dim=2, holdout=None)
    detector.fit(X)
    with pytest.raises(ValueError, match="pass limits="):
        AnomalyMapDisplay.from_estimator(detector, X[:2])
    display = AnomalyMapDisplay.from_estimator(detector, X[:2], limits=(0, 1))
    assert display.limits == (0, 1)
    score = detector.score_samples(X[:1])[0]
    assert display.axes_[0, 0].get_title() == f"{score:.3f}"  # no threshold


def test_axes_may_be_given(X):
    figure, axes = plt.subplots(2, 2)
    maps = np.zeros((2, 64, 64))
    display = AnomalyMapDisplay.from_predictions(X[:2], maps, limits=(0, 1), axes=axes)
    assert display.figure_ is figure
    with pytest.raises(ValueError, match="3 images and 2 maps"):
        AnomalyMapDisplay.from_predictions(X[:3], maps, limits=(0, 1))
    with pytest.raises(ValueError, match=r"mask \(9, 9\); expected one shape"):
        AnomalyMapDisplay.from_predictions(
            X[:2], maps, limits=(0, 1), masks=np.zeros((2, 9, 9))
        )
    with pytest.raises(ValueError, match="low < high"):
        AnomalyMapDisplay.from_predictions(X[:2], maps, limits=(1, 1))
    maps = np.zeros((3, 64, 64))
    with pytest.raises(ValueError, match="4 axes, expected 2 x 3"):
        AnomalyMapDisplay.from_predictions(X[:3], maps, limits=(0, 1), axes=axes)


# -- scores -------------------------------------------------------------------------


def test_histogram_shows_held_out_scores_and_the_threshold(pipe, X):
    bad, _ = defective(X[8:])
    display = ScoreHistogramDisplay.from_estimator(pipe, bad)
    assert np.array_equal(display.normal, pipe[-1].holdout_scores_)
    assert display.normal.max() < 0  # training scores of a bank would be 0
    assert np.array_equal(display.anomalous, pipe.score_samples(bad))
    assert display.ax_.lines[0].get_xdata()[0] == pipe[-1].offset_
    heights = [sum(p.get_height() for p in c) for c in display.ax_.containers]
    assert heights == [8, 4]


def test_histogram_of_a_tuner_in_a_search(tiny, X):
    bad, _ = defective(X[:4])
    y = np.array([1] * 12 + [-1] * 4)
    tuner = ThresholdTunerCV(AnomalyDINO(features=tiny), scoring="f1", cv=3)
    search = GridSearchCV(
        tuner,
        {"estimator__aggregate": ["max"]},
        scoring=lambda model, X, y: (model.predict(X) == y).mean(),
        cv=KFold(2, shuffle=True, random_state=0),
    ).fit(np.concatenate([X, bad]), y)
    display = ScoreHistogramDisplay.from_estimator(search, X[:2], [1, 1])
    assert (len(display.normal), len(display.anomalous)) == (14, 4)
    assert display.threshold == search.best_estimator_.offset_
    groups = ThresholdTunerCV(AnomalyDINO(features=tiny), target_fpr=0.2)
    groups.fit(X, groups=np.repeat([0, 1], 6))
    with pytest.raises(ValueError, match="each of"):
        ScoreHistogramDisplay.from_estimator(groups)


def test_the_threshold_shown_is_the_one_that_decides(tiny, X):
    """A tuner as the last step: its detector has a threshold of its own."""
    tuner = ThresholdTunerCV(DinoPatch(features=tiny), target_fpr=0.3)
    pipe = Pipeline([PCAAligner(mode="none", output_size=64), tuner]).fit(X)
    assert pipe[-1].offset_ != pipe[-1].estimator_.offset_
    display = ScoreHistogramDisplay.from_estimator(pipe)
    assert display.threshold == pipe[-1].offset_


def test_histogram_without_threshold_or_defects():
    display = ScoreHistogramDisplay.from_predictions([1, 1], [-0.1, -0.2])
    assert not display.ax_.lines
    figure, ax = plt.subplots()
    assert display.plot(ax).figure_ is figure
    with pytest.raises(ValueError, match="to_labels"):
        ScoreHistogramDisplay.from_predictions([0, 1], [-0.1, -0.2])


# -- alignment ----------------------------------------------------------------------


def test_alignment_shows_before_after_and_valid(X):
    aligner = PCAAligner(output_size=48).fit(X)
    display = AlignmentDisplay.from_estimator(aligner, X[:3])
    assert display.axes_.shape == (3, 3)
    Z = aligner.transform(X[:3])
    before, after, valid = (ax.images[0].get_array() for ax in display.axes_[:, 1])
    assert np.array_equal(before, X[1])
    assert np.array_equal(after, Z[1, ..., :3])
    assert np.array_equal(valid, Z[1, ..., 3])
    again = AlignmentDisplay.from_predictions(X[:1], Z[:1, ..., :3])
    assert (again.axes_[2, 0].images[0].get_array() == 255).all()


def test_deep_and_hidden_images_are_shown():
    deep = np.full((2, 16, 16, 4), 65535, np.uint16)
    deep[..., :3] = 1000
    deep[:, 4, 4] = [3000, 3000, 3000, 0]
    maps = np.zeros((2, 16, 16))
    shown = AnomalyMapDisplay.from_predictions(deep, maps, limits=(0, 1))
    picture = shown.axes_[0, 0].images[0].get_array()
    assert picture[4, 4].tolist() == [255, 255, 255, 0]
    assert picture[0, 0].tolist() == [128, 128, 128, 255]


def test_maps_are_saved_as_overlays_named_like_their_files(tmp_path, rng):
    X = rng.integers(0, 255, (3, 20, 30, 3), dtype=np.uint8)
    maps, limits = rng.random((3, 20, 30)), (0.2, 0.9)
    files = []
    for i, name in enumerate(["one/a", "two/a", "two/b"]):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(X[i]).save(file)
        files.append(file)
    paths = save_maps(tmp_path / "new/maps", files, maps, limits=limits)
    assert [path.name for path in paths] == ["a.png", "a_2.png", "b.png"]
    for path, image, heat in zip(paths, X, maps):
        expected = overlay_map(image, heat, limits=limits)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)
    paths = save_maps(tmp_path, X, maps, limits=limits, names=["x", "y", "x"])
    assert [path.name for path in paths] == ["x.png", "y.png", "x_2.png"]
    with pytest.raises(ValueError, match=r"Row 1: image \(20, 30\), map \(4, 4\)"):
        save_maps(tmp_path, X[:2], [maps[0], maps[1, :4, :4]], limits=limits)
    with pytest.raises(ValueError, match="3 images and 1 maps"):
        save_maps(tmp_path, X, maps[:1], limits=limits)


def test_maps_that_come_one_by_one_are_saved_and_counted(tmp_path, pipe, X):
    limits, names = pipe.map_limits_, ["a", "b", "c", "d"]
    ways = iter_maps(pipe, X[8:]), pipe.predict_map(X[8:])
    for folder, maps in zip("xy", ways):
        save_maps(tmp_path / folder, X[8:], maps, limits=limits, names=names)
    for name in names:
        one, other = ((tmp_path / f"{k}/{name}.png").read_bytes() for k in "xy")
        assert one == other
    for n, m, words in (4, 1, "4 images and 1 maps"), (3, 4, "3 .* and 4 maps or more"):
        shown, maps = X[8 : 8 + n], iter_maps(pipe, X[8 : 8 + m])
        with pytest.raises(ValueError, match=words):
            save_maps(tmp_path, shown, maps, limits=limits)


# -- curves -------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.3, 1.0])
def test_the_curve_of_maps_is_that_of_the_estimator(pipe, X, limit):
    bad, masks = defective(X[8:10])
    shown, masks = np.concatenate([X[10:], bad]), [None, None, *masks]
    one = ProCurveDisplay.from_estimator(pipe, shown, masks, fpr_limit=limit)
    maps = pipe.predict_map(shown)
    other = ProCurveDisplay.from_predictions(masks, maps, fpr_limit=limit, ax=one.ax_)
    assert other.ax_ is one.ax_
    assert len(one.ax_.lines) == 2
    assert np.array_equal(one.line_.get_xydata(), other.line_.get_xydata())
    known = [np.zeros(X.shape[1:3], bool) if m is None else m for m in masks]
    area = aupro_score(known, maps, fpr_limit=limit)
    assert one.aupro == pytest.approx(area, abs=1e-3)
    x, y = one.line_.get_xydata().T
    drawn = ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / limit
    assert drawn == pytest.approx(one.aupro)
    assert x[-1] == limit == one.ax_.get_xlim()[1]
    assert one.line_.get_label() == f"Pipeline (AUPRO = {area:.2f})"
    assert other.line_.get_label() == f"AUPRO = {area:.2f}"
    with pytest.raises(ValueError, match="4 masks and 3 maps"):
        ProCurveDisplay.from_predictions(masks, iter(maps[:3]))


def test_curves_of_image_scores_are_those_of_scikit_learn(rng):
    """The two lines of the guide."""
    y = np.where(np.arange(40) < 25, 1, -1)
    scores = y + rng.normal(0, 1, 40)  # higher = more normal
    roc = RocCurveDisplay.from_predictions(y, -scores, pos_label=-1)
    assert roc.roc_auc == pytest.approx(image_auroc_score(y, scores))
    found = PrecisionRecallDisplay.from_predictions(y, -scores, pos_label=-1)
    assert found.average_precision == pytest.approx(image_ap_score(y, scores))


def test_titles_and_histograms_refuse_a_threshold_that_is_no_number(tiny, X):
    detector = DinoPatch(features=tiny).fit(X)
    detector.offset_ = "a"
    for display in (ScoreHistogramDisplay, AnomalyMapDisplay):
        with pytest.raises(TypeError, match="offset_='a': expected a number"):
            display.from_estimator(detector, X[:1])
