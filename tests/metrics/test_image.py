import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from skdinoad.metrics import (
    f1_max_score,
    image_ap_score,
    image_auroc_score,
    recall_at_fpr_score,
)

SCORES = [image_auroc_score, image_ap_score, f1_max_score, recall_at_fpr_score]


@pytest.fixture(params=[None, 1], ids=["distinct", "ties"])
def data(request, rng):
    y = np.where(rng.random(60) < 0.4, -1, 1)
    scores = y + rng.normal(0, 1.2, 60)
    return y, scores if request.param is None else scores.round(request.param)


def test_the_anomalous_class_is_the_one_to_find(data):
    y, scores = data
    assert image_auroc_score(y, scores) == roc_auc_score(y == -1, -scores)
    assert image_ap_score(y, scores) == average_precision_score(y == -1, -scores)


def test_f1_is_the_best_of_all_thresholds(data):
    y, scores = data
    every = [f1_score(y == -1, scores <= t) for t in scores]
    assert f1_max_score(y, scores) == pytest.approx(max(every))


@pytest.mark.parametrize("fpr", [0, 0.05, 0.3, 1])
def test_recall_at_a_rate_of_false_alarms(data, fpr):
    y, scores = data
    allowed = [t for t in scores if np.mean(scores[y == 1] <= t) <= fpr]
    best = max([np.mean(scores[y == -1] <= t) for t in allowed], default=0)
    assert recall_at_fpr_score(y, scores, fpr=fpr) == pytest.approx(best)


@pytest.mark.parametrize("score", SCORES)
def test_perfect_separation_is_1(score):
    assert score([1, 1, -1], [0.0, -1.0, -2.0]) == 1


@pytest.mark.parametrize("score", SCORES)
def test_bad_input_is_explained(score):
    with pytest.raises(ValueError, match="to_labels"):
        score([0, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="All labels are 1"):
        score([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="1 NaN"):
        score([1, -1], [0.1, np.nan])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        score([1, -1], [0.1, 0.2, 0.3])


def test_rate_is_a_share():
    with pytest.raises(ValueError, match="fpr=5"):
        recall_at_fpr_score([1, -1], [0, 1], fpr=5)
