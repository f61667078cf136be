import json
import os
from datetime import datetime

import pytest
from conftest import tiny_features

from skdinoad.testing import make_images


@pytest.fixture
def kept(tmp_path):
    """Return a folder with the features of three images, and its files."""
    folder = tmp_path / "features"
    tiny_features(cache=folder).transform(make_images(3))
    return folder, sorted(folder.rglob("*.npy"))


def test_it_says_how_many_and_how_old(run, kept):
    folder, files = kept
    for i, file in enumerate(files):
        os.utime(file, (1e9 + i, 1e9 + i))
    status, (line,), _ = run("cache", folder, "--json")
    said = json.loads(line)
    assert status == 0
    assert said.pop("folder").startswith(str(folder))
    times = [datetime.fromisoformat(said.pop(name)) for name in ("oldest", "newest")]
    assert [time.timestamp() for time in times] == [1e9, 1e9 + 2]
    assert said == {"entries": 3, "bytes": sum(x.stat().st_size for x in files)}
    assert "entries    3" in run("cache", folder)[1]


def test_check_names_damaged_ones_and_changes_nothing(run, kept):
    folder, files = kept
    files[1].write_bytes(files[1].read_bytes()[:-1])
    before = [file.stat().st_mtime_ns for file in files]
    for _ in range(2):
        assert json.loads(run("cache", folder, "--check", "--json")[1][0])[
            "damaged"
        ] == [str(files[1])]
    assert run("cache", folder, "--check")[1][-2:] == [
        "damaged    1",
        str(files[1]),
    ]
    assert [file.stat().st_mtime_ns for file in files] == before


def test_clear_deletes_features_and_nothing_else(run, kept):
    folder, files = kept
    foreign = [folder / "notes.txt", files[0].with_name("notes.npy")]
    for path in foreign:
        path.write_text("mine")
    assert json.loads(run("cache", folder, "--clear", "--json")[1][0])["deleted"] == 3
    assert sorted(x for x in folder.rglob("*") if x.is_file()) == sorted(foreign)
    status, (line,), _ = run("cache", folder, "--json")
    assert (status, json.loads(line)["entries"], json.loads(line)["oldest"]) == (
        0,
        0,
        None,
    )
    assert "oldest     -" in run("cache", folder)[1]


def test_a_folder_without_features_is_an_error(run, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        status, _, error = run("cache", folder, "--clear")
        assert status == 2
        assert f"{folder} holds no cached features: expected the folder" in error


def test_checking_what_is_cleared_is_wrong_usage(run, kept):
    with pytest.raises(SystemExit, match="2"):
        run("cache", kept[0], "--check", "--clear")
