import html
import json
import re
import shutil
import subprocess

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
    with pytest.raises(OSError, match=r"r\.html.* was not saved.*full"):
        report.write(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_a_second_threshold_is_part_of_the_page(report):
    report.review_threshold = -0.5
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', report.text(), re.S)
    assert json.loads(found[1])["review"] == -0.5
    assert ScoringReport(threshold=-2, map_limits=(0, 1)).review_threshold is None
    assert "<option>look</option>" in report.text()


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
    assert before.startswith("1 defects, 1 good, 1 broken. Of 2 good training images")
    assert "0 would be flagged" in before
    assert classes == "broken,defect,good"
    assert after.startswith("0 defects, 2 good, 1 broken")
    assert names == "</script>bad.png,good.png,x.png"
    assert pictures
    assert bars == 120  # training and scored images in sixty bins


#: Shows what is to be looked at alone.
LOOK = """<script>
const show = document.getElementById("show");
show.value = "look"; show.dispatchEvent(new Event("change"));
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
    assert summary.startswith("1 defects, 1 to look at, 0 good, 1 broken")
    assert (classes, shown, lines) == ("broken,defect,look", "look", 2)
