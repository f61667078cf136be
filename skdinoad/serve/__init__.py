"""HTTP server that scores images with a model; requires ``skdinoad[serve]``."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from socket import socket
from typing import Any

from skdinoad._inputs.estimators import images_at_once
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
    """Create an ASGI application that scores images sent by POST requests.

    - ``POST /score``: JSON with "name", "verdict" ("good", "defect", or "review"
      between two thresholds), "score" (higher = more normal), "threshold",
      "review_threshold" if there is one, "p_value", and "regions" of the heat map. The
      query ``regions=false`` omits the regions, which is faster; ``name=...`` names the
      image.
    - ``POST /map``: a PNG of the heat map over the image.
    - ``GET /``: a status page. Sending one image to /score and /map counts once.
    - ``GET /health``: the counts of the status page as JSON.
    - ``GET /info``: the model's settings.

    The request body is the content of one image file. A single thread runs the model
    and scores all waiting images as one batch. Errors are JSON with "error": 422 if the
    image cannot be read or scored, 413 if it is too large, 408 if the upload is too
    slow, 415 if it is sent as a form, 429 if the queue is full.

    Parameters
    ----------
    model : estimator
        Fitted estimator with a threshold, as for :func:`skdinoad.predict_map`.
    good : list of paths or images, default=None
        Good images to fit a ``DriftMonitor``; None disables drift monitoring.
    queue : int, default=64
        Largest number of images being received, waiting or being scored at a time.
    max_bytes : int, default=33554432
        Largest accepted image file. Memory holds up to ``queue`` such files.
    title : str
        Title of the page.
    about : dict, default=None
        Additional entries of ``/info``.

    Returns
    -------
    starlette.applications.Starlette
        The model thread runs during the application's lifespan, which servers such as
        uvicorn manage.

    Raises
    ------
    ImportError
        If starlette is not installed.
    ValueError
        If the model has no threshold, or the weights differ from those used in ``fit``.

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

    threshold_of(model)  # raises an error if there is none
    rule, detector = DecisionRule.of(model), final_detector(model)
    # Every thread that has computed keeps its OpenMP workers. If there are more workers
    # than cores, OpenMP puts waiting workers to sleep, which is slow. So this thread
    # ends, and only the model thread keeps workers.
    with ThreadPoolExecutor(1) as apart:
        monitor = apart.submit(_prepared, detector, good).result()
    line = Line(title, monitor, reviews=rule.review_threshold is not None)

    def note(uploads, answers):
        try:
            line.add(uploads, answers)
        finally:
            clear_memory()  # features are shared within a batch only

    def answer(uploads):
        return score_uploads(model, uploads)

    worker = Worker(answer, note, images_at_once(detector.features_))
    said = {**described(model), **(about or {})}
    return build(model, worker, line, said, queue=queue, max_bytes=max_bytes)


def _prepared(detector, good):
    """Load and verify the weights; return a fitted drift monitor, or None.

    The monitor uses the detector's extractor, so that features are shared.
    """
    from skdinoad.monitoring import DriftMonitor

    getattr(detector.features_, "_extractor", lambda: None)()
    if good is None:
        return None
    at_once = images_at_once(detector.features_)
    return DriftMonitor(features=detector.features_, batch_size=at_once).fit(good)


def run(app: Any, listening: socket) -> None:
    """Serve an application until a stop signal; pending requests are finished first.

    Parameters
    ----------
    app : ASGI application
    listening : socket.socket
        A bound, listening socket; closed at the end.

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
    """Explain how to install a package that the block fails to import."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"serving needs {error.name}: pip install 'skdinoad[serve]'."
        ) from error
