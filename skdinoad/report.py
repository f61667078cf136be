"""Self-contained HTML reports of scored images."""

import base64
import html
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np

from skdinoad._arrays.normal_scores import rate_interval
from skdinoad._inputs.images import as_images, as_shown
from skdinoad._typing import DetectorLike, FilePath, ImagesLike
from skdinoad.persistence._dump import replacing
from skdinoad.pipeline import final_detector, iter_holdout_maps
from skdinoad.plotting import overlay_map
from skdinoad.regions import Region, find_regions
from skdinoad.verdicts import DecisionRule, described, threshold_of

__all__ = ["ScoringReport", "training_report"]

#: Longest edge and JPEG quality of the thumbnails: about 10 KB each.
_EDGE, _QUALITY = 240, 80

_PACKAGES = ("skdinoad", "torch", "timm", "scikit-learn", "numpy", "opencv-python")


class ScoringReport:
    """Collect scored images and write them as one self-contained HTML page.

    The page shows the images, the most anomalous first, each beside its heat map with
    framed regions, a histogram of the scores, and a slider for the threshold. For each
    position of the slider the page gives the number of images classified as defects,
    the number of good training images flagged, and the 90 % confidence interval of the
    false alarm rate. A report of a thousand images takes about 20 MB.

    Parameters
    ----------
    threshold : float
        Scores below it are anomalous.
    held_out : array-like of shape (n,), default=()
        Held-out scores of good training images.
    map_limits : (float, float)
        Display range of heat maps, a detector's ``map_limits_``.
    settings : dict, default=None
        Additional information shown on the page, as names and texts.
    title : str
        Title of the page.
    review_threshold : float or None, default=None
        Scores from ``threshold`` up to it get the verdict "review".

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.report import ScoringReport
    >>> report = ScoringReport(threshold=-1.0, held_out=[-0.5, -0.7], map_limits=(0, 2))
    >>> image, heat = np.zeros((8, 8, 3), dtype=np.uint8), np.zeros((8, 8))
    >>> report.add({"path": "a.png", "score": -3.0, "error": ""}, image, heat)
    >>> "a.png" in report.text()
    True
    """

    def __init__(
        self,
        *,
        threshold: float,
        map_limits: tuple[float, float],
        held_out: Iterable[float] = (),
        settings: dict[str, Any] | None = None,
        title: str = "Scores",
        review_threshold: float | None = None,
    ) -> None:
        self.threshold = float(threshold)
        self.map_limits = map_limits
        self.held_out = [float(score) for score in held_out]
        self.settings = dict(settings or {})
        self.title = title
        limit = review_threshold
        self.review_threshold = None if limit is None else float(limit)
        self._cards = []

    def add(
        self,
        row: dict[str, Any],
        image: np.ndarray | None,
        heat: np.ndarray | None,
        regions: Sequence[Region] = (),
    ) -> None:
        """Add an image.

        Parameters
        ----------
        row : dict
            "path", "score" (None if it could not be scored), "error" and optionally
            "p_value".
        image : ndarray of shape (H, W, 3 or 4), uint8, or None
        heat : ndarray of shape (H, W), or None
        regions : list of Region
            Regions to frame in the heat map.
        """
        card = {"path": str(row["path"]), "error": row.get("error") or ""}
        card["score"] = None if row["score"] is None else float(row["score"])
        card["p"] = row.get("p_value")
        card["regions"] = len(regions)
        if image is not None:
            image = np.ascontiguousarray(image[..., :3])
            card["image"] = thumbnail(image)
            card["heat"] = thumbnail(_framed(image, heat, regions, self.map_limits))
        self._cards.append(card)

    def text(self) -> str:
        """Return the page."""
        known = {
            "threshold": self.threshold,
            "review": self.review_threshold,
            "held": self.held_out,
            "intervals": _intervals(len(self.held_out)),
            "cards": [{k: card[k] for k in ("score", "path")} for card in self._cards],
        }
        order = sorted(self._cards, key=_anomaly)
        # Escape "</", which would end the script; paths may hold any text.
        data = json.dumps(known).replace("</", "<\\/")
        place = {id(card): i for i, card in enumerate(self._cards)}
        cards = "\n".join(_card(card, place[id(card)]) for card in order)
        return (
            _PAGE.replace("@TITLE@", html.escape(self.title))
            .replace("@SETTINGS@", _table({**self.settings, **_about()}))
            .replace("@COUNT@", str(len(self._cards)))
            .replace("@DATA@", data)
            .replace("@CARDS@", cards)
        )

    def write(self, path: FilePath) -> None:
        """Write the page atomically; an old file is kept if this fails.

        Parameters
        ----------
        path : str or path
        """
        with replacing(path) as temporary:
            temporary.write_text(self.text(), encoding="utf-8")


def training_report(estimator: DetectorLike, X: ImagesLike) -> ScoringReport:
    """Return a report of the training images, the most anomalous first.

    The score and heat map of each image come from a model that has not seen it. Images
    listed in ``suspects_`` are marked.

    Parameters
    ----------
    estimator : detector, Pipeline or ThresholdTunerCV
        Fitted on X in this process.
    X : array, list of images or paths
        The images passed to ``estimator.fit``; good images only.

    Returns
    -------
    report : ScoringReport

    Raises
    ------
    ValueError
        If there are no held-out heat maps: after a fit on one image, or if a detector
        that trains a network was loaded from a file.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoFeatures, DinoPatch
    >>> from skdinoad.report import training_report
    >>> X = np.random.default_rng(0).integers(0, 255, (4, 40, 50, 3), dtype=np.uint8)
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=64)
    >>> report = training_report(DinoPatch(features=features).fit(X), X)
    >>> report.text().count("<article")
    4
    """
    rule, detector = DecisionRule.of(estimator), final_detector(estimator)
    report = ScoringReport(
        threshold=threshold_of(estimator),
        review_threshold=rule.review_threshold,
        held_out=rule.held_out_scores,
        map_limits=detector.map_limits_,
        settings=described(estimator),
        title="Training images",
    )
    scores = dict(zip(detector.holdout_rows_.tolist(), detector.holdout_scores_))
    odd = {suspect.row: suspect.ratio for suspect in detector.suspects_}
    images = as_images(X)
    shown = as_shown(images)
    limit: Any = rule.pixel_threshold  # set if maps were held out
    for row, heat in iter_holdout_maps(estimator, X):
        name = images.path(row) or f"row {row}"
        if row in odd:
            name += f" (suspect: {odd[row]:.1f} times the usual anomaly score)"
        about = {"path": name, "score": scores[row], "error": ""}
        regions = find_regions(heat, limit)
        report.add(about, shown[row], heat, regions)
    if not report._cards:
        raise ValueError(
            "The model has no held-out heat maps: it was loaded from a file, or its "
            "threshold does not come from held-out images. Fit it in this process, "
            "with holdout=3 if it trains a network."
        )
    return report


def _intervals(n):
    """Return the interval of the false alarm rate for 0 to n flagged good images."""
    if not n:
        return []
    pairs = zip(*rate_interval(np.arange(n + 1), n))
    return [[round(float(x), 4) for x in pair] for pair in pairs]


def _anomaly(card):
    """Return a sort key: images without a score first, then by score."""
    return (card["score"] is not None, card["score"] or 0)


def thumbnail(image):
    """Return a reduced copy of an image as the data URI of a JPEG."""
    scale = min(1, _EDGE / max(image.shape[:2]))
    size = [max(1, round(edge * scale)) for edge in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    done, code = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), quality)
    if not done:
        raise RuntimeError(f"OpenCV cannot encode an image of shape {image.shape}.")
    return "data:image/jpeg;base64," + base64.b64encode(code).decode()


def _framed(image, heat, regions, limits):
    picture = overlay_map(image, heat, limits=limits)
    width = max(1, round(max(image.shape[:2]) / 200))
    for region in regions:
        top, left, bottom, right = region.box
        corners = (left, top), (right - 1, bottom - 1)
        cv2.rectangle(picture, *corners, (0, 255, 255), width)
    return picture


def _about():
    about = {"written": datetime.now().astimezone().isoformat(timespec="seconds")}
    for name in _PACKAGES:
        try:
            about[name] = version(name)
        except ModuleNotFoundError:
            continue
    return about


def _table(settings):
    rows = (
        f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>"
        for k, v in settings.items()
    )
    return "<table>" + "".join(rows) + "</table>"


def _card(card, i):
    path = html.escape(card["path"])
    if card["score"] is None:
        return (
            f'<article data-i="{i}" class="broken"><h3>{path}</h3>'
            f"<p>broken: {html.escape(card['error'])}</p></article>"
        )
    p = "" if card["p"] is None else f", p = {card['p']:.3g}"
    pictures = "".join(
        f'<img loading="lazy" decoding="async" alt="{kind}" src="{card[kind]}">'
        for kind in ("image", "heat")
        if kind in card
    )
    return (
        f'<article data-i="{i}"><h3>{path}</h3><p><b class="verdict"></b> score '
        f"{card['score']:.4g}{p}, {card['regions']} regions</p>{pictures}</article>"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222; }
header { position: sticky; top: 0; background: #fff; padding: .5em 0; z-index: 1; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr));
  gap: 12px; }
article { border: 2px solid #bbb; border-radius: 6px; padding: 8px;
  content-visibility: auto; contain-intrinsic-size: 330px 260px; }
article.defect { border-color: #c0392b; } article.good { border-color: #2e8b57; }
article.review { border-color: #c77c02; } article.review .verdict { color: #c77c02; }
article.defect .verdict { color: #c0392b; } article.good .verdict { color: #2e8b57; }
article h3 { font-size: 14px; margin: 0; overflow-wrap: anywhere; }
article p { margin: 2px 0 6px; } article img { max-width: 49%; }
input[type=range] { width: 100%; } svg { width: 100%; height: 90px; display: block; }
th { text-align: left; padding-right: 1em; vertical-align: top; }
td { overflow-wrap: anywhere; }
@media print { header { position: static; } .controls { display: none; }
  article { break-inside: avoid; content-visibility: visible; } }
</style></head><body>
<h1>@TITLE@: @COUNT@ images</h1>
<header>
<svg id="histogram" viewBox="0 0 600 90" preserveAspectRatio="none"></svg>
<div class="controls">
<label>Threshold <output id="value"></output>
<input id="threshold" type="range" min="0" max="1000" step="1"></label>
<label>Order <select id="order"><option value="score">most anomalous first</option>
<option value="path">by name</option></select></label>
<label>Show <select id="show"><option value="">all</option><option>defect</option>
<option>review</option><option>good</option><option>broken</option></select></label>
<button id="reset">Threshold of the model</button>
</div>
<p id="summary"></p>
</header>
<main id="cards">
@CARDS@
</main>
<h2>Settings</h2>
@SETTINGS@
<script id="data" type="application/json">@DATA@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const get = id => document.getElementById(id);
const cards = [...document.querySelectorAll("article")];
const scores = data.cards.map(c => c.score).filter(s => s !== null);
const limits = [data.threshold, data.review].filter(x => x !== null);
const all = [...scores, ...data.held, ...limits];
let low = Math.min(...all), high = Math.max(...all);
const pad = (high - low) * 0.03 || 1e-6;
low -= pad; high += pad;
let threshold = data.threshold;
function draw() {
  const n = 60, bins = [Array(n).fill(0), Array(n).fill(0)];
  const bin = s => Math.min(n - 1, Math.floor((s - low) / (high - low) * n));
  data.held.forEach(s => bins[0][bin(s)]++);
  scores.forEach(s => bins[1][bin(s)]++);
  const most = Math.max(1, ...bins[0], ...bins[1]);
  let out = "";
  [["#9db", 0], ["#468", 1]].forEach(([color, k]) => bins[k].forEach((count, i) => {
    const height = count / most * 80;
    out += `<rect x="${i * 10 + k * 4.5}" y="${85 - height}" width="4.5" ` +
      `height="${height}" fill="${color}"/>`;
  }));
  const line = (limit, color) => {
    const x = (limit - low) / (high - low) * 600;
    return `<line x1="${x}" x2="${x}" y1="0" y2="90" stroke="${color}" ` +
      `stroke-width="2"/>`;
  };
  get("histogram").innerHTML = out + line(threshold, "#c0392b") +
    (data.review === null ? "" : line(data.review, "#c77c02"));
}
function judged(score) {
  if (score === null) return "broken";
  if (score < threshold) return "defect";
  return data.review !== null && score < data.review ? "review" : "good";
}
function label() {
  const counts = {defect: 0, review: 0, good: 0, broken: 0};
  for (const card of cards) {
    const verdict = judged(data.cards[card.dataset.i].score);
    counts[verdict]++;
    card.className = verdict;
    const shown = get("show").value;
    card.hidden = shown !== "" && shown !== verdict;
    const text = card.querySelector(".verdict");
    if (text) text.textContent = verdict;
  }
  const flagged = data.held.filter(s => s < threshold).length;
  get("value").textContent = threshold.toPrecision(4);
  const review = data.review === null ? "" : `, ${counts.review} to review`;
  const percent = x => `${(100 * x).toPrecision(2)} %`;
  const interval = data.intervals[flagged];
  const sure = !interval ? "" : ` The rate of false alarms lies between ` +
    `${percent(interval[0])} and ${percent(interval[1])} (90 % interval).`;
  get("summary").textContent = `${counts.defect} defects${review}, ` +
    `${counts.good} good, ${counts.broken} broken. ` +
    `This threshold would flag ${flagged} of ${data.held.length} good training ` +
    `images, each scored by a model that has not seen it.${sure} ` +
    `(Light bars: training images; dark bars: images here.)`;
  draw();
}
function slide(value) { threshold = value; label(); }
function reset() {
  get("threshold").value = (data.threshold - low) / (high - low) * 1000;
  slide(data.threshold);
}
get("threshold").oninput = e => slide(low + e.target.value / 1000 * (high - low));
get("reset").onclick = reset;
get("show").onchange = label;
get("order").onchange = e => {
  const key = c => data.cards[c.dataset.i];
  cards.sort((a, b) => e.target.value === "path"
    ? (key(a).path < key(b).path ? -1 : 1)
    : (key(a).score ?? -Infinity) - (key(b).score ?? -Infinity));
  get("cards").append(...cards);
};
reset();
</script></body></html>
"""
