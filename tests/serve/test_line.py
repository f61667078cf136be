"""The page: what it shows, and that it stays text."""

import re

import numpy as np

from skdinoad.serve._line import _RECENT, _SHOWN, Line
from skdinoad.serve._scoring import Scored, Upload


class Monitor:
    """Raises the alarm at the fifth image."""

    false_alarm_every, evidence_of_ = 100.0, {"warmth, low": 2.0, "<b>": 200.0}

    def __init__(self):
        self.seen, self.alarm_, self.evidence_ = 0, False, 0.0

    def update(self, images):
        self.seen += len(images)
        self.alarm_, self.evidence_ = self.seen >= 5, 30.0 * self.seen


def add(line, verdicts):
    image = np.full((30, 400, 3), 90, np.uint8)
    uploads = [Upload(b"", f"{verdict}<b>", False) for verdict in verdicts]
    known = {
        v: Scored({"verdict": v, "score": -1.0}, image, None)
        for v in ("good", "defect")
    }
    line.add(uploads, [known.get(v, ValueError("cut <off>")) for v in verdicts])


def test_counts_are_those_of_all_and_the_share_that_of_late():
    line = Line("m.skd")
    assert line.known()["recent_defect_rate"] is None
    assert "0 images" in line.page()
    add(line, ["defect"] * 10 + ["good", "broken"])
    assert line.known() == {
        "good": 1,
        "defect": 10,
        "broken": 1,
        "recent_images": 11,
        "recent_defect_rate": 10 / 11,
    }
    assert "90.9% are defects" in line.page()
    add(line, ["good"] * (_RECENT - 1) + ["defect"])
    assert line.known()["recent_defect_rate"] == 1 / _RECENT
    assert line.known()["defect"] == 11


def test_the_last_images_are_shown_the_newest_first():
    line = Line("m.skd")
    add(line, ["defect"] * 30 + ["good"] * 3 + ["broken"])
    assert re.findall('article class="(.*?)"', line.page()) == (
        ["broken"] + ["good"] * 3 + ["defect"] * (_SHOWN - 4)
    )
    assert line.page().count("<img") == _SHOWN - 1
    assert len(line.page()) < 100_000


def test_the_page_runs_nothing_loads_nothing_and_names_are_text():
    line = Line("<i>@CARDS@")
    add(line, ["good", "broken"])
    page = line.page()
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "<h1>&lt;i&gt;@CARDS@</h1>" in page
    assert "good&lt;b&gt;" in page
    assert "broken: cut &lt;off&gt;" in page


def test_drift_is_told_and_says_what_has_changed():
    line = Line("m.skd", Monitor())
    add(line, ["good", "broken", "defect"])
    assert line.monitor.seen == 2  # what could not be read says nothing
    assert line.known()["drift"] is False
    assert "No drift: evidence 60 of 100" in line.page()
    add(line, ["good"] * 3)
    assert line.known()["drift"] is True
    assert "The images have changed</b> (most: &lt;b&gt;;" in line.page()
    assert "not watched" in Line("m.skd").page()
