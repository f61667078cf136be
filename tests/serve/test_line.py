"""The page: what it shows, and that it stays text."""

import re

import numpy as np

from skdinoad import Result
from skdinoad.serve._line import _RECENT, _SHOWN, Line
from skdinoad.serve._scoring import ScoredUpload, Upload


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
        verdict: ScoredUpload("a part", image, Result(-1.0, label=label))
        for verdict, label in (("good", 1), ("defect", -1))
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
    assert "The images have changed</b> (most in &lt;b&gt;;" in line.page()
    assert "not monitored" in Line("m.skd").page()


def test_images_to_review_are_counted_apart():
    line = Line("m.skd", reviews=True)
    image = np.full((30, 40, 3), 90, np.uint8)
    known = [
        ScoredUpload("a part", image, Result(-1.0, label=1, review=review))
        for review in (True, False)
    ]
    line.add([Upload(b"a", "a", False), Upload(b"b", "b", False)], known)
    assert line.known()["review"] == 1
    assert line.known()["recent_defect_rate"] == 0
    assert "2 images: 1 good, 1 to review, 0 defects" in line.page()
    assert '<article class="review">' in line.page()


def test_an_image_sent_to_both_addresses_counts_once():
    line = Line("m.skd", Monitor())
    image = np.full((30, 40, 3), 90, np.uint8)
    scored = ScoredUpload("a part", image, Result(-1.0, label=1))

    def ask(content, path):
        line.add([Upload(content, "a", True, path)], [scored])
        return line.known()["good"]

    assert [ask(b"a", "/score"), ask(b"a", "/map")] == [1, 1]
    assert [ask(b"b", "/map"), ask(b"b", "/score")] == [2, 2]
    assert ask(b"a", "/score") == 3  # to the same address again: another photograph
    assert line.monitor.seen == 3
    assert line.page().count("<article") == 3
    for i in range(_RECENT):
        ask(b"image %d" % i, "/score")
    assert ask(b"b", "/score") == 3 + _RECENT + 1  # long ago
