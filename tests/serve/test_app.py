"""What clients see: verdicts, refusals, a page; also of a real server."""

import asyncio
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import skdinoad
from skdinoad import find_regions, load, predict_map
from skdinoad.monitoring import DriftMonitor
from skdinoad.plotting import overlay_map
from skdinoad.serve import make_app

testclient = pytest.importorskip("starlette.testclient")
_app = pytest.importorskip("skdinoad.serve._app")


@pytest.fixture
def detector(model):
    return load(model)


@pytest.fixture
def files(photos):
    return [str(photos / f"new/{i}.png") for i in range(3)]


@pytest.fixture
def contents(files):
    return [Path(path).read_bytes() for path in files]


@pytest.fixture
def client(detector):
    with testclient.TestClient(make_app(detector, queue=6)) as client:
        yield client


class Gate:
    """Holds a model back until it may go on; keeps its batches."""

    def __init__(self, model):
        self.free, self.busy, self.batches = threading.Event(), threading.Event(), []
        iter_scored = model.iter_scored

        def held(X, **how):
            self.batches.append([X[i] for i in range(len(X))])
            self.busy.set()
            assert self.free.wait(10)
            return iter_scored(X, **how)

        model.iter_scored = held


def soon(question):
    """Wait until something is so."""
    until = time.monotonic() + 10
    while not question():
        assert time.monotonic() < until
        time.sleep(0.01)


# -- answers --------------------------------------------------------------------------


def test_answers_are_those_of_the_model(client, detector, files, contents):
    for path, content in zip(files, contents):
        said = client.post("/score", params={"name": path}, content=content).json()
        heat = predict_map(detector, [path])[0]
        regions = find_regions(heat, detector.pixel_threshold_)
        assert said["name"] == path
        assert said["score"] == detector.score_samples([path])[0]
        assert said["threshold"] == detector.offset_
        assert said["verdict"] == {1: "good", -1: "defect"}[detector.predict([path])[0]]
        assert 0 < said["p_value"] <= 1
        assert [r["box"] for r in said["regions"]] == [list(r.box) for r in regions]
    assert said["regions"]
    bare = client.post("/score?regions=false", content=contents[2]).json()
    assert bare == {k: v for k, v in said.items() if k != "regions"} | {"name": "#4"}


def test_the_map_is_the_picture_of_the_heat_map(client, detector, files, contents):
    answer = client.post("/map", content=contents[2])
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.format == "PNG"
        found = np.asarray(picture)
    with Image.open(files[2]) as image:
        heat = predict_map(detector, files[2:])[0]
        expected = overlay_map(np.asarray(image), heat, limits=detector.map_limits_)
    np.testing.assert_array_equal(found, expected)
    assert answer.headers["x-verdict"] == "defect"
    score = detector.score_samples(files[2:])[0]
    assert float(answer.headers["x-score"]) == score


def test_what_waits_is_scored_as_one_batch(client, detector, files, contents):
    scores = detector.score_samples
    gate = Gate(detector)  # tiny networks read four images at a time
    with ThreadPoolExecutor(6) as pool:

        def ask(content):
            return pool.submit(client.post, "/score?regions=false", content=content)

        answers = [ask(contents[0])]
        assert gate.busy.wait(10)
        for n, content in enumerate([*contents, b"no image", contents[0]], 1):
            answers.append(ask(content))
            soon(lambda n=n: client.get("/health").json()["waiting"] == n)
        gate.free.set()
        answers = [answer.result(10) for answer in answers]
    assert [len(batch) for batch in gate.batches] == [1, 3, 1]
    assert [a.status_code for a in answers] == [200, 200, 200, 200, 422, 200]
    found = [a.json()["score"] for a in answers if a.status_code == 200]
    assert found == [s for batch in gate.batches for s in scores(batch)]
    np.testing.assert_allclose(found[1:4], scores(files), rtol=1e-5)


def test_the_page_and_its_numbers_follow(client, contents):
    client.post("/score?name=a<b>", content=contents[0])
    client.post("/map", content=contents[2])
    client.post("/score", content=b"no image")
    soon(lambda: client.get("/health").json()["broken"])
    health = client.get("/health").json()
    assert (health["good"], health["defect"], health["status"]) == (1, 1, "ok")
    page = client.get("/")
    assert "a&lt;b&gt;" in page.text
    assert page.text.count("<article") == 3
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_drift_is_watched_where_good_images_are_given(detector, photos, contents):
    good = sorted(str(path) for path in (photos / "good").iterdir())
    with testclient.TestClient(make_app(detector, good=good)) as client:
        client.post("/score", content=contents[0])
        soon(lambda: client.get("/health").json()["drift_evidence"])
        assert client.get("/health").json()["drift"] is False


def test_the_map_of_a_scored_image_is_no_second_image(client, contents):
    client.post("/score", content=contents[0])
    client.post("/map", content=contents[0])
    client.post("/score", content=b"no image")
    soon(lambda: client.get("/health").json()["broken"])
    assert client.get("/health").json()["good"] == 1


def test_what_is_to_be_looked_at_is_told(reviewed, contents):
    detector = load(reviewed)
    with testclient.TestClient(make_app(detector)) as client:
        said = [client.post("/score", content=x).json() for x in contents]
        assert sorted(x["verdict"] for x in said) == ["defect", "good", "review"]
        assert {x["review_threshold"] for x in said} == {detector.review_offset_}
        i = [x["verdict"] for x in said].index("review")
        answer = client.post("/map", content=contents[i])
        assert answer.headers["x-verdict"] == "review"
        soon(lambda: client.get("/health").json()["recent_images"] == 3)
        assert client.get("/health").json()["review"] == 1


def test_info_says_what_the_model_is(detector):
    with testclient.TestClient(make_app(detector, about={"file": "m"})) as client:
        said = client.get("/info").json()
    assert said["threshold"] == detector.offset_
    assert said["weights_sha256"] == detector.features_.weights_digest_
    assert said["file"] == "m"


# -- refusals -------------------------------------------------------------------------


def test_what_is_no_image_is_refused_with_the_reason(client, contents, monkeypatch):
    for content, status, why in [
        (b"no image", 422, "the image cannot be read as an image"),
        (b"", 422, "no bytes"),
        (contents[0][:300], 422, "damaged or truncated"),
    ]:
        answer = client.post("/score", content=content)
        assert answer.status_code == status
        assert why in answer.json()["error"]
    form = client.post("/score", files={"image": contents[0]})
    assert (form.status_code, "not a form" in form.json()["error"]) == (415, True)
    assert client.post("/score?regions=no", content=contents[0]).status_code == 400
    assert client.get("/score").status_code == 405
    assert client.get("/nothing").json() == {"error": "Not Found"}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    large = client.post("/score", content=contents[0])
    assert (large.status_code, "MAX_IMAGE_PIXELS = 1000" in large.text) == (422, True)


def test_there_is_room_for_so_many_and_no_more(detector, contents):
    gate = Gate(detector)
    app = make_app(detector, queue=2)
    with testclient.TestClient(app) as client, ThreadPoolExecutor(2) as pool:
        inside = [pool.submit(client.post, "/score", content=contents[0])]
        assert gate.busy.wait(10)
        inside.append(pool.submit(client.post, "/score", content=contents[0]))
        soon(lambda: client.get("/health").json()["waiting"] == 1)
        refused = client.post("/score", content=contents[0])
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        gate.free.set()
        assert [x.result(10).status_code for x in inside] == [200, 200]
        assert client.post("/score", content=contents[0]).status_code == 200


def test_what_goes_wrong_inside_is_logged_and_stops_nothing(
    client, detector, contents, caplog
):
    iter_scored = detector.iter_scored
    detector.iter_scored = lambda X, **how: 1 / 0
    answer = client.post("/score", content=contents[0])
    assert answer.status_code == 500
    assert "division" not in answer.text
    assert "division by zero" in caplog.text
    detector.iter_scored = iter_scored
    assert client.post("/score", content=contents[0]).status_code == 200


# -- on the wire ----------------------------------------------------------------------


class Idle:
    """A worker that never answers."""

    alive, waiting = True, 0

    def __init__(self):
        self.futures, self.dropped = [], []

    def submit(self, upload):
        self.futures.append(Future())
        return self.futures[-1]

    def drop(self, future):
        self.dropped.append(future)


def ask(app, receive, headers=()):
    """Return the status of a bare ASGI request, None if none was sent."""
    sent = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/score",
        "query_string": b"",
        "headers": list(headers),
    }

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return next((m["status"] for m in sent if "status" in m), None)


@pytest.fixture
def idle(detector):
    worker = Idle()
    app = _app.build(detector, worker, None, {}, queue=1, max_bytes=10_000)
    return worker, app


def test_a_long_body_is_refused_while_it_is_read(idle):
    taken = []

    async def receive():
        taken.append(1)
        return {"type": "http.request", "body": b"x" * 4000, "more_body": True}

    assert ask(idle[1], receive) == 413
    assert len(taken) == 3
    assert ask(idle[1], receive, [(b"content-length", b"10001")]) == 413
    assert len(taken) == 3  # nothing was read
    assert not idle[0].futures


def test_a_slow_body_is_refused(idle, monkeypatch):
    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    monkeypatch.setattr(_app, "_PATIENCE", 0.1)
    assert ask(idle[1], receive) == 408


@pytest.mark.parametrize("whole", [True, False])
def test_the_work_of_a_client_that_is_gone_is_dropped(idle, whole):
    worker, app = idle
    for _ in range(2):  # and its room is free again
        body = {"type": "http.request", "body": b"x", "more_body": not whole}
        parts = [body, {"type": "http.disconnect"}]

        async def receive(parts=parts):
            return parts.pop(0)

        assert ask(app, receive) == 499
    assert worker.dropped == worker.futures
    assert len(worker.futures) == (2 if whole else 0)


def test_other_weights_are_refused_before_the_first_image(detector):
    detector.features_.weights_digest_ = "0123"
    with pytest.raises(ValueError, match="fitted with weights 0123"):
        make_app(detector)


def test_what_computes_before_the_model_thread_is_a_thread_that_ends(
    detector, photos, monkeypatch
):
    seen = []

    def noted(function):
        def note(*args, **kwargs):
            seen.append(threading.current_thread())
            return function(*args, **kwargs)

        return note

    for owner, name in [
        (type(detector.features_), "_extractor"),
        (DriftMonitor, "fit"),
    ]:
        monkeypatch.setattr(owner, name, noted(getattr(owner, name)))
    make_app(detector, good=sorted(map(str, (photos / "good").iterdir())))
    assert len(seen) > 1
    assert threading.current_thread() not in seen
    assert not any(thread.is_alive() for thread in seen)


def test_what_is_missing_is_named(detector, monkeypatch):
    monkeypatch.delitem(sys.modules, "skdinoad.serve._app")
    monkeypatch.delattr("skdinoad.serve._app")
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(ImportError, match=r"pip install 'skdinoad\[serve\]'"):
        make_app(detector)


# -- a real server --------------------------------------------------------------------

#: Scores nothing before a file says so.
SLOW = """
import sys, time
from pathlib import Path
from skdinoad import AnomalyDINO
from skdinoad.cli import main
quick = AnomalyDINO.iter_scored

def held(self, X, **how):
    while not Path("go").exists():
        time.sleep(0.02)
    return quick(self, X, **how)

AnomalyDINO.iter_scored = held
sys.exit(main(sys.argv[1:]))
"""


def asked(address, method, path, content=None):
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        connection.request(method, path, content)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_a_real_server_answers_and_finishes_what_was_begun(
    model, detector, files, contents, tmp_path
):
    command = [sys.executable, "-c", SLOW, "serve", model, "--port", "0"]
    server = subprocess.Popen(
        [*command, "--max-bytes", "300000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(skdinoad.__file__).parent.parent)},
    )
    try:
        address = re.search(r"http://(127\.0\.0\.1:\d+)", server.stdout.readline())[1]
        status, said = asked(address, "POST", "/score", b"x" * 3_000_000)
        assert (status, "300000 bytes" in said["error"]) == (413, True)
        with ThreadPoolExecutor(3) as pool:
            begun = [pool.submit(asked, address, "POST", "/score", x) for x in contents]
            soon(lambda: asked(address, "GET", "/health")[1]["inside"] == 3)
            server.send_signal(signal.SIGTERM)
            (tmp_path / "go").touch()
            answers = [answer.result(30) for answer in begun]
        assert [status for status, _ in answers] == [200] * 3
        found = [said["score"] for _, said in answers]
        np.testing.assert_allclose(found, detector.score_samples(files), rtol=1e-5)
        assert server.wait(30) == -signal.SIGTERM
        assert server.stderr.read() == ""
    finally:
        server.kill()
        server.communicate()
