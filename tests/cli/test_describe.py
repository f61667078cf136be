import hashlib
import json

import pytest

from skdinoad.cli._paths import load_model


def test_inspect_says_what_a_model_is_and_was_made_from(run, model):
    status, lines, _ = run("inspect", model, "--json")
    said = json.loads(lines[0])
    detector = load_model(model)
    assert status == 0
    assert said["estimator"].startswith("AnomalyDINO(")
    assert said["threshold"] == detector.offset_
    assert said["held_out_images"] == 6
    assert said["weights_sha256"] == detector.features_.weights_digest_
    assert said["file_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert any("threshold" in line for line in run("inspect", model)[1])


@pytest.mark.real
def test_weights_are_named(run, monkeypatch, real_features):
    monkeypatch.setenv("SKDINOAD_OFFLINE", "1")
    status, lines, _ = run("weights")
    assert status == 0
    networks = [line for line in lines if not line.startswith(" ")]
    assert len(networks) == 2
    assert any("image_size=224 (measured: benchmarks/" in line for line in lines)
    assert real_features().fit().weights_digest_[:12] in lines[0]
