"""Uploads to verdicts: the same as of files, each image for itself."""

import cv2
import numpy as np
import pytest

from skdinoad import DinoPatch, SubspaceAD, predict_map
from skdinoad.serve._scoring import Upload, reason, score_uploads
from skdinoad.testing import make_images


def upload(image, wants_map=False):
    if not isinstance(image, bytes):
        done, code = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
        assert done
        image = code.tobytes()
    return Upload(image, "a part", wants_map)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_scores_and_maps_are_those_of_the_model(tiny, dtype):
    X = make_images(8, size=(48, 64)).astype(dtype) * (257 if dtype is np.uint16 else 1)
    model = SubspaceAD(features=tiny).fit(X[:5])
    X = X[5:]
    wanted = [True, False, True]
    found = score_uploads(model, [upload(x, want) for x, want in zip(X, wanted)])
    scores = [one.result.score for one in found]
    np.testing.assert_allclose(scores, model.score_samples(X), rtol=1e-6)
    assert [one.result.heat is not None for one in found] == wanted
    heats = predict_map(model, X[[0, 2]])
    np.testing.assert_array_equal(
        np.stack([found[0].result.heat, found[2].result.heat]), heats
    )
    assert [one.shown().dtype for one in found] == [np.uint8] * 3


def test_an_odd_image_spoils_no_other(tiny):
    X = make_images(6, size=(48, 64))
    model = DinoPatch(features=tiny).fit(X)
    content = [X[0], b"no image", make_images(1, size=(90, 64))[0], X[1]]
    uploads = [upload(item) for item in content]
    first, broken, larger, last = score_uploads(model, uploads)
    assert reason(broken).startswith("the image cannot be read as an image")
    assert reason(larger).startswith("the image gives a patch grid of shape")
    for found, x in ((first, X[0]), (last, X[1])):
        expected = model.score_samples([x])[0]
        assert found.result.score == pytest.approx(expected, rel=1e-6)


def test_a_batch_of_broken_images_is_no_question_to_the_model():
    assert [type(x) for x in score_uploads(None, [upload(b""), upload(b"x")])] == [
        ValueError,
        ValueError,
    ]
