import hashlib
import socket

import pytest

from skdinoad.cli import main

testclient = pytest.importorskip("starlette.testclient")


@pytest.fixture
def served(monkeypatch):
    """Return the arguments of ``run``, which is replaced."""
    given = []

    def note(app, listening):
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        given.append((app, listening.getsockname()))

    monkeypatch.setattr("skdinoad.cli._http.run", note)
    return given


def test_the_model_is_served_at_the_address_that_is_told(run, photos, model, served):
    status, lines, errors = run(
        "serve", model, "--port", 0, "--good", photos / "good", "--max-bytes", 9
    )
    app, (address, port) = served[0]
    assert (status, errors) == (0, "")
    assert lines == [f"Serving {model} at http://127.0.0.1:{port}"]
    assert address == "127.0.0.1"
    with testclient.TestClient(app) as client:
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        assert client.get("/info").json()["file_sha256"] == digest
        assert client.get("/health").json()["drift"] is False
        assert client.post("/score", content=b"0123456789").status_code == 413
        assert "<h1>m.skd</h1>" in client.get("/").text


def test_an_address_that_others_reach_is_warned_of(run, model, served):
    _, _, errors = run("serve", model, "--port", 0, "--host", "0.0.0.0")
    assert "use a proxy with authentication and TLS" in errors


def test_what_cannot_be_served_has_status_2(run, model, photos, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, errors = run("serve", model, "--port", port)
        assert status == 2
        assert f"cannot listen at 127.0.0.1, port {port}" in errors
    assert run("serve", model, "--port", 70000)[0] == 2
    assert run("serve", photos / "new/0.png", "--port", 0)[0] == 2
    with pytest.raises(SystemExit) as stop:
        main(["serve", str(model), "--queue", "0"])
    assert stop.value.code == 2
    assert "expected 1 or more" in capsys.readouterr().err
