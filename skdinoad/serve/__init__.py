"""A model behind HTTP: images come in, verdicts go out; needs ``skdinoad[serve]``."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from socket import socket
from typing import Any

from skdinoad._typing import DetectorLike, ImagesLike

__all__ = ["make_app", "run"]


def make_app(
    model: DetectorLike,
    *,
    good: ImagesLike | None = None,
    queue: int = 64,
    max_bytes: int = 2**25,
    title: str = "Line",
    about: dict[str, Any] | None = None,
) -> Any:
    """Return an ASGI application that scores the images POSTed to it.

    - ``POST /score``: JSON with "name", "verdict" ("good", "defect", or "review"
      between two thresholds), "score" (higher = more normal), "threshold",
      "review_threshold" if there is one, "p_value", and "regions" of the heat map
      unless the query says ``regions=false``, which is faster. ``name=...`` names the
      image.
    - ``POST /map``: the heat map over the image, a PNG.
    - ``GET /``: a page to watch, where an image asked for at both counts once; ``GET
      /health``: its numbers; ``GET /info``: the model.

    The body is the content of one image file. One thread owns the model; whenever it
    is free it takes the images that wait as one batch. Errors are JSON with "error":
    422 for an image that cannot be read or scored, 413 if it is too long, 408 too slow,
    415 in a form, 429 when there is no room.

    Parameters
    ----------
    model : estimator
        Fitted, with a threshold; as for :func:`skdinoad.predict_map`.
    good : list of paths or images, default=None
        Good images, from which a ``DriftMonitor`` learns; None watches no drift.
    queue : int, default=64
        Images that may be inside at a time: being received, waiting or being scored.
    max_bytes : int, default=33554432
        Longest image file that is taken. Memory holds up to ``queue`` of them.
    title : str
        Of the page.
    about : dict, default=None
        What ``/info`` should say besides.

    Returns
    -------
    starlette.applications.Starlette
        Its thread runs while its lifespan does; servers such as uvicorn see to that.

    Raises
    ------
    ImportError
        If starlette is not installed.
    ValueError
        If the model has no threshold, or the weights found are not those of ``fit``.

    Examples
    --------
    >>> import cv2, numpy as np
    >>> from starlette.testclient import TestClient
    >>> from skdinoad import DinoFeatures, SubspaceAD
    >>> from skdinoad.serve import make_app
    >>> X = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=32)
    >>> model = SubspaceAD(features=features).fit(X)
    >>> content = cv2.imencode(".png", X[0, ..., ::-1])[1].tobytes()
    >>> with TestClient(make_app(model)) as client:
    ...     answer = client.post("/score?name=part_7", content=content).json()
    >>> answer["name"], answer["score"] == float(model.score_samples(X[:1])[0])
    ('part_7', True)
    """
    with _extra():
        from skdinoad.serve._app import build
    from skdinoad.features._store import clear_memory
    from skdinoad.pipeline import final_detector
    from skdinoad.serve._line import Line
    from skdinoad.serve._scoring import score_uploads
    from skdinoad.serve._worker import Worker
    from skdinoad.verdicts import DecisionRule, described, threshold_of

    threshold_of(model)  # without one there are no verdicts
    rule, detector = DecisionRule.of(model), final_detector(model)
    # A thread that has computed once keeps its helpers. Where those of all threads are
    # more than cores, OpenMP lets them sleep whenever they wait for each other; so this
    # one ends, and none but the model's thread keeps any.
    with ThreadPoolExecutor(1) as apart:
        monitor = apart.submit(_prepared, detector, good).result()
    line = Line(title, monitor, reviews=rule.review_threshold is not None)

    def note(uploads, answers):
        try:
            line.add(uploads, answers)
        finally:
            clear_memory()  # features are shared within a batch; no image comes twice

    def answer(uploads):
        return score_uploads(model, uploads)

    worker = Worker(answer, note, detector._images_at_once())
    said = {**described(model), **(about or {})}
    return build(model, worker, line, said, queue=queue, max_bytes=max_bytes)


def _prepared(detector, good):
    """Read the weights, and compare them, before the first image; return a monitor.

    Its features are the detector's as far as possible; None watches no drift.
    """
    from skdinoad.monitoring import DriftMonitor

    getattr(detector.features_, "_extractor", lambda: None)()
    if good is None:
        return None
    at_once = detector._images_at_once()
    return DriftMonitor(features=detector.features_, batch_size=at_once).fit(good)


def run(app: Any, listening: socket) -> None:
    """Serve an application until a signal says stop; what was begun is finished first.

    Parameters
    ----------
    app : ASGI application
    listening : socket.socket
        Bound, and listening; closed in the end.

    Raises
    ------
    ImportError
        If uvicorn is not installed.
    """
    with _extra():
        import uvicorn
    config = uvicorn.Config(app, lifespan="on", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _extra():
    """Say how to get what the block imports, if it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"serving needs {error.name}: pip install 'skdinoad[serve]'."
        ) from error
