"""The promise of the design, word for word, with the real backbone."""

import numpy as np
import pytest

from skdinoad.datasets import make_screws


@pytest.mark.real
def test_promise(real_features):
    X, _ = make_screws(12, random_state=0)
    bad, masks = make_screws(2, defect="second_washer", random_state=1)
    X_new = np.concatenate([make_screws(2, random_state=2)[0], bad])

    from skdinoad import DinoPatch, PCAAligner, Pipeline

    pipe = Pipeline([PCAAligner(), DinoPatch()]).fit(X)
    labels = pipe.predict(X_new)
    scores = pipe.score_samples(X_new)
    maps = pipe.predict_map(X_new)

    assert labels.tolist() == [1, 1, -1, -1]
    assert scores[:2].min() > scores[2:].max()
    assert maps.shape == X_new.shape[:3]
    assert maps.dtype == np.float32
    for heat, mask in zip(maps[2:], masks):
        peak = np.unravel_index(heat.argmax(), heat.shape)
        assert np.linalg.norm(np.argwhere(mask) - peak, axis=1).min() < 8  # a patch
