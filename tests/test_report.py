import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from skdinoad import (
    AnomalyDINO,
    DinoPatch,
    LinearDFR,
    PCAAligner,
    Pipeline,
    Region,
    SubspaceAD,
    load,
    save,
)
from skdinoad.pipeline import iter_holdout_maps
from skdinoad.report import ScoringReport, training_report
from skdinoad.testing import make_images


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
    with pytest.raises(OSError, match=r"r\.html.* was not saved.*full"):
        report.write(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_a_second_threshold_is_part_of_the_page(report):
    report.review_threshold = -0.5
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', report.text(), re.S)
    assert json.loads(found[1])["review"] == -0.5
    assert ScoringReport(threshold=-2, map_limits=(0, 1)).review_threshold is None
    assert "<option>review</option>" in report.text()


# -- in a browser ---------------------------------------------------------------------

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)


def titled(page):
    """Return what the scripts of a page have left in its title."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--virtual-time-budget=3000", f"--user-data-dir={page.parent / 'user'}"]
    out = subprocess.run(
        [*command, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return json.loads(
        html.unescape(re.search("<title>(.*?)</title>", out.stdout, re.S)[1])
    )


#: Moves the threshold below all scores, sorts by name, and shows what is good alone.
ACT = """<script>
const slider = document.getElementById("threshold");
const before = document.getElementById("summary").textContent;
const classes = cards.map(card => card.className).join();
slider.value = 0; slider.dispatchEvent(new Event("input"));
const order = document.getElementById("order");
order.value = "path"; order.dispatchEvent(new Event("change"));
const names = [...document.querySelectorAll("h3")].map(x => x.textContent).join();
const pictures = [...document.images].every(x => x.complete && x.naturalWidth > 0);
document.title = JSON.stringify([before, classes,
  document.getElementById("summary").textContent, names, pictures,
  document.querySelectorAll("svg rect").length]);
</script></body>"""


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_the_page_is_sorted_and_rethresholded_in_a_browser(report, tmp_path):
    page = tmp_path / "r.html"
    page.write_text(
        report.text().replace("</body>", ACT).replace(' loading="lazy"', "")
    )
    before, classes, after, names, pictures, bars = titled(page)
    assert before.startswith("1 defects, 1 good, 1 broken. This threshold would")
    assert "would flag 0 of 2 good training images" in before
    assert "between 0.0 % and 78 % (90 % interval)" in before
    assert classes == "broken,defect,good"
    assert after.startswith("0 defects, 2 good, 1 broken")
    assert names == "</script>bad.png,good.png,x.png"
    assert pictures
    assert bars == 120  # training and scored images in sixty bins


#: Shows what is to be looked at alone.
LOOK = """<script>
const show = document.getElementById("show");
show.value = "review"; show.dispatchEvent(new Event("change"));
document.title = JSON.stringify([document.getElementById("summary").textContent,
  cards.map(card => card.className).join(),
  cards.filter(card => !card.hidden).map(card => card.className).join(),
  document.querySelectorAll("svg line").length]);
</script></body>"""


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_the_page_shows_what_is_to_be_looked_at_in_a_browser(report, tmp_path):
    report.review_threshold = -0.5
    page = tmp_path / "r.html"
    page.write_text(report.text().replace("</body>", LOOK))
    summary, classes, shown, lines = titled(page)
    assert summary.startswith("1 defects, 1 to review, 0 good, 1 broken")
    assert (classes, shown, lines) == ("broken,defect,review", "review", 2)


# -- training images ------------------------------------------------------------------


@pytest.fixture
def with_an_odd_one(tiny):
    X = make_images(8)
    X[5, 10:40, 10:50] = [255, 0, 255]
    same = PCAAligner(output_size=64, mode="none")
    pipe = Pipeline([same, DinoPatch(features=tiny)])
    with pytest.warns(UserWarning, match=r"1 of 8 .*X\[5\]"):
        pipe.fit(X)
    return pipe, X


def test_training_images_are_shown_the_oddest_first(with_an_odd_one):
    pipe, X = with_an_odd_one
    text = training_report(pipe, X).text()
    order = re.findall(r"<h3>(.*?)</h3>", text)
    assert len(order) == 8
    assert re.fullmatch(r"row 5 \(suspect: \d+\.\d times the usual.*\)", order[0])
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)
    scores = [card["score"] for card in json.loads(data[1])["cards"]]
    np.testing.assert_allclose(scores, pipe[-1].holdout_scores_)


def test_held_out_maps_show_the_defect_that_the_model_has_learned(with_an_odd_one):
    pipe, X = with_an_odd_one
    maps = dict(iter_holdout_maps(pipe, X))
    assert sorted(maps) == list(range(8))
    assert maps[5].shape == X.shape[1:3]
    y, x = np.unravel_index(maps[5].argmax(), maps[5].shape)
    assert 8 <= y < 42
    assert 8 <= x < 52
    # The model knows the image by now, and finds nothing.
    assert pipe.predict_map(X[5:6]).max() < 0.01 * maps[5].max()


@pytest.mark.parametrize("build_one", [AnomalyDINO, SubspaceAD])
def test_held_out_maps_leave_out_defects_and_copies(tiny, build_one):
    X = make_images(6)
    X[4] = X[0]
    y = [1, 1, 1, -1, 1, 1]
    with pytest.warns(UserWarning, match="exact copies"):
        detector = build_one(features=tiny).fit(X, y)
    assert detector.holdout_rows_.tolist() == [0, 1, 2, 5]
    maps = dict(iter_holdout_maps(detector, X))
    assert list(maps) == [0, 1, 2, 5]
    assert all(heat.max() > 0 for heat in maps.values())


def test_trained_detectors_show_the_images_that_folds_held_out(make_tiny_cnn):
    X = make_images(6)
    detector = LinearDFR(features=make_tiny_cnn(standardize=False), holdout=2).fit(X)
    assert list(dict(iter_holdout_maps(detector, X))) == list(range(6))
    assert training_report(detector, X).text().count("<article") == 6


def test_a_page_of_nothing_is_refused(make_tiny_cnn, tmp_path):
    X = make_images(6)
    cnn = make_tiny_cnn(standardize=False)
    detector = LinearDFR(features=cnn, holdout=2).fit(X)
    with pytest.raises(ValueError, match="no held-out heat maps"):
        training_report(load(save(detector, tmp_path / "m.skd")), X)


def test_suspects_are_saved_with_the_model(with_an_odd_one, tmp_path):
    pipe, X = with_an_odd_one
    loaded = load(save(pipe, tmp_path / "m.skd"))
    assert loaded[-1].suspects_ == pipe[-1].suspects_
    text = training_report(loaded, X).text()
    assert len(re.findall(r"<h3>[^<]*\(suspect: ", text)) == 1


def test_intervals_follow_the_number_of_images(report):
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', report.text(), re.S)
    intervals = json.loads(data[1])["intervals"]
    assert len(intervals) == 2 + 1
    assert intervals[0][0] == 0
    assert intervals[-1][1] == 1
    assert intervals[1] == pytest.approx([0.0253, 0.9747], abs=1e-4)
