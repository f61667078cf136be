"""Benchmarks, small: tables on rendered screws, the long run, peers, the history."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_features
from PIL import Image
from sklearn.utils import Bunch

from skdinoad import AnomalyDINO
from skdinoad._compat.timm import timm
from skdinoad.datasets import load_folder, make_screws
from skdinoad.features._backbones import load_backbone
from skdinoad.metrics import aupro_score, image_auroc_score

ROOT = Path(__file__).parent.parent
BENCHMARKS, STRESS = ROOT / "benchmarks", ROOT / "tests" / "stress"
TABLE = BENCHMARKS / "accuracy" / "table.py"


def write_category(folder):
    """Write a category in MVTec AD's layout."""
    bad, masks = make_screws(3, defect="second_washer", size=128, random_state=2)
    parts = {
        "train/good": make_screws(5, size=128)[0],
        "test/good": make_screws(3, size=128, random_state=1)[0],
        "test/washer": bad,
        "ground_truth/washer": masks,
    }
    for name, images in parts.items():
        (folder / name).mkdir(parents=True)
        ending = "_mask.png" if "truth" in name else ".png"
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{i}{ending}")


def run(*arguments):
    out = subprocess.run(
        [sys.executable, TABLE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "SKDINOAD_OFFLINE": "1"},
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.mark.real
def test_table_is_filled_and_resumed(tmp_path, real_features, real_cnn):
    for name in ("screws", "bolts"):
        write_category(tmp_path / "data" / name)
    path = tmp_path / "out" / "table.csv"
    methods = ["DFR linear", "DFR vit linear"]
    arguments = ("--root", tmp_path / "data", "--results", path, "--methods")
    run(*arguments, methods[0])
    before = path.read_text()
    printed = run(*arguments, *methods, "--seeds", 42, 43)
    assert path.read_text().startswith(before)  # what was there is not run again
    assert path.read_text().count("\n") == 1 + 4  # nothing is drawn: one seed
    tables = printed.split("\n\n")[1:4]
    for table, figure in zip(tables, ("image AUROC", "pixel AUROC", "pixel F1-max")):
        header, _, *rows = [line.strip("| ").split(" | ") for line in table.split("\n")]
        assert header == [figure, "bolts", "screws", "mean"]
        assert [row[0] for row in rows] == methods
        assert all(0 <= float(x) <= 1 for row in rows for x in row[1:])
    known = json.loads(path.with_suffix(".json").read_text())
    assert {"device", "threads", "torch"} <= set(known["environment"])
    assert len(known["rows"]) == 4
    for row in known["rows"]:
        assert row["fit s"] > 0 < row["score ms"]


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(STRESS)
    return importlib.import_module("soak")


def test_soak_notes_memory_at_each_mark(soak, tmp_path):
    rows = list(soak.soak(tmp_path, 20))
    assert [row[:2] for row in rows] == [
        ("score_command", "nowhere"),
        ("score_samples", "nowhere"),
        ("score_command", "folder"),
        ("score_samples", "folder"),
    ]
    assert all(len(mib) == 3 and min(mib) > 10 for *_, mib in rows)
    turned = 8 * 8  # images of fit in each rotation
    assert len(list((tmp_path / "kept").rglob("*.npy"))) == turned + 20


@pytest.mark.parametrize(("allowed", "status"), [("1000", 0), ("-1", 1)])
def test_soak_fails_where_memory_grows(soak, monkeypatch, capsys, allowed, status):
    arguments = ["soak.py", "--images", "10", "--allowed", allowed]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        soak.main()
    assert int(stop.value.code) == status
    assert "score_samples" in capsys.readouterr().out


def test_a_protection_without_a_test_is_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(STRESS)
    mutations = importlib.import_module("mutations")
    (tmp_path / "skdinoad").mkdir()
    (tmp_path / "skdinoad/a.py").write_text("LIMIT = 3\n")
    for name, expected in (("seen", "LIMIT == 3"), ("unseen", "LIMIT")):
        code = f"from skdinoad.a import LIMIT\n\n\ndef test():\n    assert {expected}\n"
        (tmp_path / f"test_{name}.py").write_text(code)
    said = [
        mutations.told(tmp_path, "a.py", "3", "4", f"test_{name}.py")
        for name in ("seen", "unseen")
    ]
    assert said == ["fails", "SAYS NOTHING"]
    assert (tmp_path / "skdinoad/a.py").read_text() == "LIMIT = 3\n"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS / "peers")
    return importlib.import_module("peers")


@pytest.fixture
def adapters(peers):
    return sys.modules["_peers"]


def test_help_is_there_without_what_is_compared(peers, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["peers.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        peers.main()
    assert not stop.value.code
    assert "usage: peers.py" in capsys.readouterr().out
    assert not {"anomalib", "imgad"} & set(sys.modules)


def test_peers_that_are_not_installed_are_left_out(
    peers, monkeypatch, tmp_path, capsys
):
    write_category(tmp_path / "screws")
    row = {**dict.fromkeys(peers.FIGURES, 1.0), "threads": 2}
    monkeypatch.setattr(peers, "run", lambda *_: row)
    monkeypatch.setattr(peers, "installed", lambda package: package != "anomalib")
    monkeypatch.setattr(peers, "environment", str)
    monkeypatch.setattr(peers, "versions", str)
    monkeypatch.setattr(peers, "commit", lambda: "abc")
    monkeypatch.setattr(peers, "processor", lambda: "a CPU")
    path = tmp_path / "peers.csv"
    arguments = ["--images", "2", "--results", str(path)]
    monkeypatch.setattr(sys, "argv", ["peers.py", str(tmp_path), *arguments])
    peers.main()
    out = capsys.readouterr().out
    assert "anomalib Dinomaly, left out: anomalib is not installed\n" in out
    assert "authors' AnomalyDINO, left out: no --clone is given\n" in out
    assert "| imgad knn | 1.0 | 1.0 | 1 | 1.000 | 1.000 |" in out
    ratios = " | ".join(["1.00"] * 4)
    assert f"| imgad knn | skdinoad AnomalyDINO | {ratios} | +0.000 | +0.000 |" in out
    header, *rows = path.read_text().splitlines()
    assert header.startswith("date,commit,machine,threads,category,fitted,judged,steps")
    assert len(rows) == 5 + 1
    assert rows[0].endswith(
        ",abc,a CPU,2,screws,2,2,50,skdinoad AnomalyDINO,1.0,1.0,1.0,1.0,1.0"
    )


def test_repeats_take_turns_and_medians_are_shown(peers, monkeypatch, tmp_path):
    calls = []

    def run(method, category, options):
        calls.append(method)
        return {**dict.fromkeys(peers.FIGURES, len(calls)), "threads": 1, "AUPRO": None}

    monkeypatch.setattr(peers, "run", run)
    monkeypatch.setattr(peers, "commit", str)
    data = Bunch(train=[1], test=[1, 2])
    options = Bunch(repeats=3, steps=5, results=tmp_path / "peers.csv")
    found = peers.repeated(["ours", "theirs"], "nuts", data, options)
    assert calls == ["ours", "theirs"] * 3
    assert [row["fit s"] for row in found.values()] == [3, 4]
    assert found["ours"]["AUPRO"] is None


def test_few_test_images_are_of_all_kinds(peers, tmp_path):
    write_category(tmp_path / "screws")
    data = peers.some(load_folder(tmp_path / "screws"), 2)
    assert (len(data.train), len(data.test)) == (2, 2)
    assert sorted(data.y) == [-1, 1]
    assert [bool(mask.any()) for mask in data.masks] == list(data.y == -1)


@pytest.mark.parametrize("said", ["a bar\nfeatures differ from ours by 1\n", ""])
def test_a_failed_peer_is_named_with_its_reason(peers, monkeypatch, capsys, said):
    failed = Bunch(returncode=1, stdout="", stderr=said)
    monkeypatch.setattr(peers.subprocess, "run", lambda *_, **__: failed)
    options = Bunch(root="data", images=2, depth=2, steps=1, batch=1)
    options.update(clone=None, masking=True)
    assert peers.run("imgad knn", "nuts", options) is None
    reason = said.strip().split("\n")[-1] or "status 1"
    assert f"imgad knn, left out: {reason}\n" in capsys.readouterr().out


def test_a_row_says_how_many_times_the_peer_takes(peers):
    ours, peer = peers.PAIRS[0]
    names = ["fit s", "score + map s", "MiB", "image AUROC", "AUPRO"]
    assert names == peers.FIGURES
    found = {
        ours: dict(zip(names, [1.0, 1.0, 50.0, 0.9, 0.8])),
        peer: dict(zip(names, [4.0, 2.0, 25.0, 0.95, None])),
    }
    [row] = peers.ratios(found)
    assert row == [peer, ours, "4.00", "2.00", "3.00", "0.50", "+0.050", "-"]


def test_a_method_is_measured(peers, adapters, tmp_path):
    write_category(tmp_path / "screws")
    data = load_folder(tmp_path / "screws")
    method = adapters.Ours(AnomalyDINO(features=tiny_features()))
    row = peers.measure(method, data)
    assert list(row) == [*peers.FIGURES, "threads"]
    assert row["fit s"] > 0 < row["score + map s"]
    scores = method.detector.score_samples(data.test)
    assert row["image AUROC"] == image_auroc_score(data.y, scores)
    maps = method.detector.predict_map(data.test)
    assert row["AUPRO"] == pytest.approx(aupro_score([*data.masks], [*maps]))


def test_maps_come_to_the_size_of_the_photograph(peers):
    masks = np.zeros((2, 8, 6), bool)
    masks[1, :4, :3] = True
    data = Bunch(y=np.array([1, -1]), masks=LazyMasksOf(masks))
    heat = np.zeros((2, 4, 4), np.float32)
    heat[1, :2, :2] = 1
    method = Bunch(judge=lambda X: zip([0.0, -1.0], heat))
    assert peers.quality(method, None, data) == (1.0, pytest.approx(1.0, abs=0.05))


class LazyMasksOf:
    """Masks in memory, all known."""

    def __init__(self, masks):
        self.masks, self.known = masks, np.ones(len(masks), bool)

    def __getitem__(self, i):
        return self.masks[i]


@pytest.mark.real
@pytest.mark.parametrize("name", ["VIT", "CNN"])
def test_networks_of_peers_get_our_weights(adapters, name, real_features, real_cnn):
    model, kind = getattr(adapters, name), {}
    if name == "CNN":
        kind = {"features_only": True, "out_indices": adapters.LEVELS}
    with adapters.our_weights(model):
        network = timm.create_model(model, pretrained=True, **kind)
    ours = real_features() if name == "VIT" else real_cnn()
    ours = load_backbone(ours.model, ours.weights).network.state_dict()
    tensors = network.state_dict()
    assert len(tensors) > 100
    assert all(torch.equal(tensors[key], ours[key]) for key in tensors)


@pytest.mark.real
def test_a_network_with_other_features_is_refused(adapters, real_cnn):
    create = timm.create_model
    other = {"features_only": True, "out_indices": adapters.LEVELS, "act_layer": "silu"}
    refused = pytest.raises(SystemExit, match="features differ from ours")
    with refused, adapters.our_weights(adapters.CNN):
        timm.create_model(adapters.CNN, pretrained=True, **other)
    assert timm.create_model is create


# What is taken of the authors' code: here an image turned once, the lower half masked.
BACKBONES = """
import numpy as np, torch
from sklearn.utils import Bunch

class Model:
    def __init__(self, *_):
        self.model = torch.hub.load("facebookresearch/dinov2", "dinov2_vits14")
        self.transform = Bunch(transforms=[Bunch(size=None)])

    def prepare_image(self, x):
        return torch.from_numpy(x).permute(2, 0, 1) / 255, (4, 4)

    def extract_features(self, x):
        return self.model.get_intermediate_layers(x[None])[0][0].detach().numpy()

    def compute_background_mask(self, found, grid, threshold, masking_type):
        assert masking_type and threshold == 10
        return np.arange(len(found)) < 8

get_model = Model
"""
DETECTION = """
import faiss, numpy as np

def augment_image(x):
    return [x, x[::-1].copy()]

def dists2map(distances, shape):
    return np.kron(distances, np.ones((shape[0] // 4, shape[1] // 4)))

def mean_top1p(distances):
    return distances.max()
"""


@pytest.mark.real
def test_authors_parts_are_used_in_their_order(adapters, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/backbones.py").write_text(BACKBONES)
    (tmp_path / "src/detection.py").write_text(DETECTION)
    monkeypatch.setattr(sys, "path", [*sys.path])
    load = torch.hub.load
    method = adapters.Authors(str(tmp_path), masking=True)
    assert torch.hub.load is load
    for name in ("src", "src.backbones", "src.detection"):
        del sys.modules[name]
    X = np.random.default_rng(0).integers(0, 255, (3, 56, 56, 3), dtype=np.uint8)
    method.fit([*X[:2]])
    assert method.index.ntotal == 2 * 2 * 16
    seen, other = method.judge([X[1], X[2]])
    assert seen[0] == pytest.approx(0, abs=1e-5)
    assert other[0] < -1e-3
    assert other[1].shape == (56, 56)
    assert other[1].max() == -other[0]
    assert (other[1][28:] == 0).all()
    method.masking = False
    [whole] = method.judge([X[2]])
    assert (whole[1] > 0).all()
    assert (whole[1][:28] == other[1][:28]).all()


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS / "speed")
    module = importlib.import_module("bench")
    monkeypatch.setattr(module, "environment", str)
    return module


def test_bench_shows_the_last_other_commit(bench, monkeypatch, tmp_path, capsys):
    path = tmp_path / "history.csv"
    monkeypatch.setattr(sys, "argv", ["bench.py", "--results", str(path)])
    now = {}
    monkeypatch.setattr(bench, "GROUPS", {"speed": lambda: [("one", now["ratio"])]})
    monkeypatch.setattr(bench, "processor", lambda: now["machine"])
    monkeypatch.setattr(bench, "commit", lambda: now["commit"])
    shown = []
    for case in [
        ("aaa", 1.25, "a CPU"),
        ("bbb", 2.0, "a CPU"),
        ("bbb", 2.5, "a CPU"),  # again: it is still compared with the other commit
        ("ccc", 3.0, "another CPU"),
        ("ccc", 2.7, "a CPU"),  # within a tenth
    ]:
        now.update(zip(("commit", "ratio", "machine"), case))
        bench.main()
        shown += capsys.readouterr().out.strip().split("\n")[2:]
    assert shown == [
        "| speed: one | 1.250 | - | - |",
        "| speed: one | 2.000 | 1.250 | aaa |",
        "SLOWER: speed: one by 60% since aaa",
        "| speed: one | 2.500 | 1.250 | aaa |",
        "SLOWER: speed: one by 100% since aaa",
        "| speed: one | 3.000 | - | - |",
        "| speed: one | 2.700 | 2.500 | bbb |",
    ]
    header, *rows = path.read_text().splitlines()
    assert header == "date,commit,machine,name,ratio"
    assert len(rows) == 5
    machine = f'"a CPU, {torch.get_num_threads()} threads"'
    assert rows[1].endswith(f",bbb,{machine},speed: one,2.000")


def test_bench_measures_what_the_benchmarks_do(bench, monkeypatch):
    """Small calls in place of the long ones: each ratio is the benchmark's own."""
    monkeypatch.setattr(bench.search, "measure", lambda n: (37, n, 2.0, 5.0))
    monkeypatch.setattr(bench.contention, "measure", lambda *_: (2.0, 3.0))
    monkeypatch.setattr(bench.carrying_back, "measure", lambda: [("scaled", 2.0, 1.0)])
    assert list(bench.whole_search()) == [("37 fits", 2.5)]
    assert dict(bench.beside_a_busy_process()) == {
        "DFR": 1.5,
        "DMAD": 1.5,
        "Dinomaly": 1.5,
    }
    assert list(bench.maps()) == [("scaled", 0.5)]


@pytest.fixture
def verdicts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS / "accuracy")
    return importlib.import_module("verdicts")


def test_verdicts_are_those_of_predict_and_defects_can_be_hidden(
    verdicts, tmp_path, monkeypatch, capsys
):
    write_category(tmp_path / "screws")
    monkeypatch.setitem(
        verdicts.METHODS, "ours", lambda: AnomalyDINO(features=tiny_features())
    )
    monkeypatch.setattr(verdicts, "environment", str)
    path = tmp_path / "v.csv"
    how = ["--root", str(tmp_path), "--results", str(path), "--methods", "ours"]
    monkeypatch.setattr(sys, "argv", ["verdicts.py", *how, "--contaminate", "0", ".2"])
    verdicts.main()
    rows = verdicts.read(path)
    assert [row["contaminated"] for row in rows] == ["0"] + 3 * ["0.2"]
    data = load_folder(tmp_path / "screws")
    model = AnomalyDINO(features=tiny_features()).fit(data.train)
    flagged = model.predict(data.test) == -1
    assert float(rows[0]["recall"]) == pytest.approx(
        flagged[data.y == -1].mean(), abs=1e-4
    )
    assert float(rows[0]["false alarms"]) == flagged[data.y == 1].mean()
    assert 0 <= float(rows[0]["regions"]) <= 1
    printed = capsys.readouterr().out
    verdicts.main()  # nothing is run again
    assert len(verdicts.read(path)) == len(rows)
    assert "| ours | 0.2 | 1 |" in printed
    recall = f"{float(rows[0]['recall']):.3f}"
    assert f"| ours | {recall} |" in path.with_name("v_means.md").read_text()
