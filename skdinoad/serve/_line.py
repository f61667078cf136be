"""Status of the line: recent images, counts of verdicts, drift."""

import hashlib
import html
import threading
from collections import Counter, deque

from skdinoad.report import thumbnail
from skdinoad.serve._scoring import ScoredUpload, reason

__all__ = ["Line"]

#: Number of images shown on the page, and window of the recent defect rate.
_SHOWN, _RECENT = 24, 200


class Line:
    """Record results for the status page and the health endpoint.

    Parameters
    ----------
    title : str
    monitor : DriftMonitor or None
        Fitted monitor; updated with every image that could be scored.
    reviews : bool
        Whether the model has a review threshold, and thus the verdict "review".
    """

    def __init__(self, title, monitor=None, reviews=False):
        self.title, self.monitor = title, monitor
        self._lock = threading.Lock()  # written and read in different threads
        self._counts = Counter()
        self._recent = deque(maxlen=_RECENT)  # whether each was a defect
        self._cards = deque(maxlen=_SHOWN)
        self._verdicts = ["good", *(["review"] if reviews else []), "defect"]
        self._paths = {}  # digest of a recent image -> path of its request

    def add(self, uploads, answers):
        """Record a batch; answers are ScoredUpload objects or exceptions."""
        new = [self._is_new(upload) for upload in uploads]
        uploads = [upload for upload, fresh in zip(uploads, new) if fresh]
        answers = [answer for answer, fresh in zip(answers, new) if fresh]
        scored = [answer for answer in answers if isinstance(answer, ScoredUpload)]
        cards = [_card(*pair) for pair in zip(uploads, answers)]
        verdicts = [answer.result.verdict for answer in scored]
        with self._lock:
            self._cards.extend(cards)
            self._counts.update(verdicts)
            self._counts["broken"] += len(answers) - len(scored)
            self._recent.extend(verdict == "defect" for verdict in verdicts)
        if self.monitor is not None and scored:
            self.monitor.update([answer.pixels for answer in scored])

    def _is_new(self, upload):
        """Whether an image was not recently sent to the other path."""
        digest = hashlib.sha256(upload.content).digest()
        path = self._paths.pop(digest, upload.path)
        self._paths[digest] = path
        if len(self._paths) > _RECENT:
            del self._paths[next(iter(self._paths))]
        return path == upload.path

    def known(self) -> dict:
        """Return the counts since the start, the recent defect rate and drift."""
        with self._lock:
            counts = {name: self._counts[name] for name in [*self._verdicts, "broken"]}
            recent = list(self._recent)
        share = sum(recent) / len(recent) if recent else None
        out = {**counts, "recent_images": len(recent), "recent_defect_rate": share}
        if self.monitor is not None:
            out["drift"] = bool(self.monitor.alarm_)
            out["drift_evidence"] = round(self.monitor.evidence_, 3)
        return out

    def page(self) -> str:
        """Return the HTML page, which uses no scripts or external resources."""
        with self._lock:
            cards = "\n".join(reversed(self._cards))
        parts = {
            "TITLE": html.escape(self.title),
            "COUNTS": _counts(self.known()),
            "DRIFT": self._drift(),
            "CARDS": cards,
        }
        head, *rest = _PAGE.split("@")  # one pass, because cards may hold any text
        return head + "".join(parts.get(part, part) for part in rest)

    def _drift(self):
        monitor = self.monitor
        if monitor is None:
            return "<p>Drift is not monitored: no good images were given.</p>"
        evidence = f"{monitor.evidence_:.3g} of {monitor.false_alarm_every:g}"
        if not monitor.alarm_:
            return f"<p>No drift: evidence {evidence}.</p>"
        most = max(monitor.evidence_of_, key=monitor.evidence_of_.get)
        return (
            '<p class="defect"><b>The images have changed</b> (most in '
            f"{html.escape(most)}; evidence now {evidence}). Check lens, lamp and "
            "camera, then restart the server.</p>"
        )


def _counts(known):
    names = ("good", "review", "defect", "broken")
    total = sum(known.get(name, 0) for name in names)
    review = f"{known['review']} to review, " if "review" in known else ""
    text = (
        f"<p>{total} images: {known['good']} good, {review}{known['defect']} defects, "
        f"{known['broken']} broken."
    )
    if known["recent_images"]:
        text += (
            f" Of the last {known['recent_images']} that could be scored "
            f"{known['recent_defect_rate']:.1%} are defects."
        )
    return text + "</p>"


def _card(upload, answer):
    name = html.escape(upload.name)
    if not isinstance(answer, ScoredUpload):
        text = html.escape(reason(answer))
        return f'<article class="broken"><h3>{name}</h3><p>broken: {text}</p></article>'
    verdict, score = answer.result.verdict, answer.result.score
    return (
        f'<article class="{verdict}"><h3>{name}</h3><p><b>{verdict}</b> score '
        f'{score:.4g}</p><img alt="" src="{thumbnail(answer.shown())}"></article>'
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="3">
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr));
  gap: 12px; }
article { border: 2px solid #bbb; border-radius: 6px; padding: 8px; }
article.review { border-color: #c77c02; } .review b { color: #c77c02; }
article.defect { border-color: #c0392b; } article.good { border-color: #2e8b57; }
.defect b { color: #c0392b; } .good b { color: #2e8b57; }
h3 { font-size: 14px; margin: 0; overflow-wrap: anywhere; }
article p { margin: 2px 0 6px; } img { max-width: 100%; }
</style></head><body>
<h1>@TITLE@</h1>
@COUNTS@
@DRIFT@
<main>
@CARDS@
</main>
</body></html>
"""
