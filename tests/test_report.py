import json
import re

import numpy as np
import pytest

from skdinoad import Region
from skdinoad.report import ScoringReport


@pytest.fixture
def report(rng):
    report = ScoringReport(
        threshold=-2.0,
        held_out=[-1.0, -1.5],
        map_limits=(0, 1),
        settings={"who": "<b>"},
    )
    heat = np.zeros((30, 40))
    heat[10:14, 20:25] = 1
    region = Region((10, 20, 14, 25), 20, 1.0, 1.0, (10, 20), np.ones((4, 5), bool))
    image = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
    report.add({"path": "good.png", "score": -1.0, "error": ""}, image, heat)
    bad = {"path": "</script>bad.png", "score": -3.0, "error": "", "p_value": 0.25}
    report.add(bad, image, heat, [region])
    report.add({"path": "x.png", "score": None, "error": "cut <off>"}, None, None)
    return report


def test_worst_comes_first_and_nothing_comes_from_elsewhere(report):
    text = report.text()
    order = re.findall(r"<h3>(.*?)</h3>", text)
    assert order == ["x.png", "&lt;/script&gt;bad.png", "good.png"]
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "http" not in text.replace("http-equiv", "")


def test_what_users_name_is_text_and_no_markup(report):
    text = report.text()
    assert text.count("</script>") == 2
    assert "cut &lt;off&gt;" in text
    assert "&lt;b&gt;" in text


def test_data_for_the_slider_are_the_scores(report):
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', report.text(), re.S)
    data = json.loads(found[1])
    assert data["threshold"] == -2
    assert data["held"] == [-1, -1.5]
    assert [card["score"] for card in data["cards"]] == [-1, -3, None]


def test_a_failed_write_leaves_the_old_page(report, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    report.write(path)
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        report.write(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
