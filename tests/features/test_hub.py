import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch

from skdinoad.features import DinoFeatures, WeightsNotFoundError, _hub
from skdinoad.features._backbones import load_backbone
from skdinoad.features._hub import HubError, from_hub

MODEL = "test_vit.r160_in1k"


def weights():
    network = load_backbone("test_vit", "random:0").network
    return safetensors.torch.save(network.state_dict())


class Handler(BaseHTTPRequestHandler):
    """A hub with one file, which it sends by ``server.send``."""

    def do_HEAD(self):
        self.server.head(self)

    def do_GET(self):
        self.server.send(self)

    def headers_of_file(self, status=200):
        server = self.server
        self.send_response(status)
        self.send_header("Content-Length", str(len(server.content)))
        self.send_header("ETag", f'"{server.etag}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()

    def log_message(self, *_):
        pass


def whole(request):
    request.headers_of_file()
    request.wfile.write(request.server.content)


def slow(request):
    request.headers_of_file()
    content = request.server.content
    for start in range(0, len(content), 2**17):
        request.wfile.write(content[start : start + 2**17])
        time.sleep(0.15)


def error_500(request):
    request.send_error(500)


def cut(request):
    request.headers_of_file()
    request.wfile.write(request.server.content[: 2**18])


def stall(request):
    cut(request)
    request.wfile.flush()
    request.server.end.wait(20)


def silent(request):
    request.server.end.wait(20)


def page(request):
    content = b"<html>Please log in</html>"
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def garbage(request):
    request.headers_of_file()
    request.wfile.write(b"\x07" * len(request.server.content))


def flipped(request):
    request.headers_of_file()
    content = bytearray(request.server.content)
    content[-9] ^= 1
    request.wfile.write(content)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Start a local hub with an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.head, server.send = Handler.headers_of_file, whole
    server.content, server.end = weights(), threading.Event()
    server.etag = hashlib.sha256(server.content).hexdigest()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.cache, address = tmp_path / "hub", f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(server.cache),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("SKDINOAD_OFFLINE", "0")
    monkeypatch.setattr(_hub, "_PAUSES", 1)
    monkeypatch.setattr(_hub, "HUB_TIMEOUT", 1)
    load_backbone.cache_clear()
    yield server
    server.end.set()
    server.shutdown()
    server.server_close()
    load_backbone.cache_clear()


def kept(hub):
    """Return the files of the hub's cache that could be used as weights."""
    files = [p for p in hub.cache.rglob("*") if "blobs" in p.parts or p.is_symlink()]
    return [p for p in files if not p.is_dir() and p.suffix != ".incomplete"]


def test_download_is_kept_and_its_source_told(hub):
    features = DinoFeatures(model=MODEL).fit()
    assert features.weights_digest_ == load_backbone("test_vit", "random:0").digest
    assert features.weights_name_ == f"{MODEL} [hub download, timm/{MODEL}]"
    hub.send = hub.head = error_500
    load_backbone.cache_clear()
    again = DinoFeatures(model=MODEL).fit()
    assert again.weights_name_ == f"{MODEL} [hub cache, timm/{MODEL}]"


def test_slow_line_is_waited_for(hub):
    hub.send = slow  # takes longer in total than the allowed pause
    assert 0.15 * len(hub.content) / 2**17 > _hub.HUB_TIMEOUT
    assert from_hub(MODEL).source.startswith("hub download")


@pytest.mark.parametrize(
    "send", [error_500, cut, stall, silent, page, garbage, flipped]
)
def test_any_failure_is_told_and_leaves_nothing(hub, send):
    hub.send = send
    with pytest.raises(HubError):
        from_hub(MODEL)
    assert kept(hub) == []


@pytest.mark.parametrize("head", [error_500, silent, page])
def test_hub_without_an_answer_is_given_up(hub, head):
    hub.head = head
    with pytest.raises(WeightsNotFoundError, match=r"hub failed \(.*Remedies"):
        DinoFeatures(model=MODEL, weights="hub").fit()
    assert kept(hub) == []


def test_garbage_is_removed_where_the_hub_gives_no_sha256(hub):
    hub.etag, hub.send = "abc", garbage
    with pytest.raises(HubError, match="is not valid"):
        from_hub(MODEL)
    assert kept(hub) == []


def test_what_comes_after_giving_up_is_not_kept(hub, monkeypatch):
    ready, done = threading.Event(), threading.Event()

    def late(repository, file, tell):
        ready.wait(20)
        path = hub.cache / "late"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"anything")
        return path

    def discard(path):
        path.unlink()
        done.set()

    monkeypatch.setattr(_hub, "download", late)
    monkeypatch.setattr(_hub, "_discard", discard)
    with pytest.raises(HubError, match="no data for"):
        from_hub(MODEL)
    ready.set()
    assert done.wait(20)


@pytest.mark.parametrize(
    ("damage", "etag"),
    [
        ("flipped", None),  # a flipped bit is detected only by the sha256 in the name
        ("truncated", None),
        ("truncated", "abc"),
        ("swapped", None),
        ("swapped", "abc"),
    ],
)
def test_damage_in_the_cache_names_the_path_and_the_remedy(hub, damage, etag):
    hub.etag = etag or hub.etag
    path, content = from_hub(MODEL).path, hub.content
    other = {
        "flipped": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "truncated": content[:-1000],
        "swapped": safetensors.torch.save({"a": torch.ones(3)}),
    }
    path.resolve().write_bytes(other[damage])
    with pytest.raises(ValueError, match=r"model\.safetensors.*Delete"):
        DinoFeatures(model=MODEL).fit()


def test_offline_does_not_ask_the_hub(hub, monkeypatch):
    monkeypatch.setattr(_hub, "_from_download", lambda repository: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        from_hub(MODEL)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert from_hub(MODEL) is None
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("SKDINOAD_OFFLINE", "1")
    assert from_hub(MODEL) is None


def test_links_of_links_are_checked_by_the_name_of_the_first(hub):
    """Later versions of the hub's cache share files between repositories."""
    path = from_hub(MODEL).path
    blob = path.resolve()
    shared = hub.cache / "blobs" / ("e" * 64)
    shared.parent.mkdir()
    blob.rename(shared)
    blob.symlink_to(shared)
    assert from_hub(MODEL).source.startswith("hub cache")
    shared.write_bytes(bytes(8))
    with pytest.raises(ValueError, match="e" * 64):
        from_hub(MODEL)
    _hub._discard(path)
    assert kept(hub) == []


def test_model_that_is_not_on_the_hub():
    assert from_hub("test_vit") is None


#: Runs a model from fit to scores in a new process that counts and rejects network
#: connections.
OFFLINE = """
import json, os, socket, sys
from contextlib import redirect_stdout

asked = []

def refuse(name):
    def ask(*args, **kwargs):
        asked.append(name)
        raise OSError("there is no network")
    return ask

for place, name in [
    (socket, "getaddrinfo"), (socket.socket, "connect"), (socket.socket, "connect_ex")
]:
    setattr(place, name, refuse(name))

from PIL import Image
from skdinoad import AnomalyDINO, DinoFeatures, load, save
from skdinoad.cli import main
from skdinoad.testing import make_images

def life(model):
    features = DinoFeatures(model=model, image_size=64)
    paths = [f"{i}.png" for i in range(4)]
    for path, image in zip(paths, make_images(4)):
        Image.fromarray(image).save(path)
    detector = AnomalyDINO(features=features, masking=None).fit(paths)
    detector.score_samples(paths)
    load(save(detector, "m.skd")).predict_map(paths)
    return main(["score", "m.skd", *paths]), main(["weights"])

def error():
    try:
        life("test_vit2.r160_in1k")
    except RuntimeError as error:
        return str(error)

with redirect_stdout(sys.stderr):
    statuses = life(sys.argv[1])
said = {"statuses": statuses, "error": error(), "asked": list(asked)}
os.environ["SKDINOAD_OFFLINE"] = "0"
print(json.dumps({**said, "online": [error(), asked]}))
"""


def test_offline_nothing_connects_from_import_to_command_line(hub, tmp_path):
    from_hub(MODEL)  # fills the cache; the other model is not cached
    command = [sys.executable, "-c", OFFLINE, MODEL]
    env = {**os.environ, "SKDINOAD_OFFLINE": "1", "HF_HUB_CACHE": str(hub.cache)}
    out = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    said = json.loads(out.stdout)
    assert said["asked"] == []
    assert said["statuses"] == [0, 0]
    error = said["error"]
    assert error.startswith("No pretrained weights for model='test_vit2.r160_in1k'")
    assert "(SKDINOAD_OFFLINE or HF_HUB_OFFLINE is set)" in error
    assert "\n" not in error
    reason, asked = said["online"]
    assert "the model hub failed" in reason
    assert asked  # so the counter works
