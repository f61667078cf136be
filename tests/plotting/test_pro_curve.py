"""The curve of per-region overlap."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

from skdinoad import (
    DinoPatch,
    PCAAligner,
    Pipeline,
)
from skdinoad.metrics import aupro_score, image_ap_score, image_auroc_score
from skdinoad.plotting import (
    ProCurveDisplay,
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
