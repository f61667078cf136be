"""Rows come back as written, in both formats; a failure leaves the old file."""

import csv
import sys

import pytest

from skdinoad.persistence._tables import check_format, write_table

COLUMNS = {"path": str, "top": int, "score": float}
ROWS = [
    {"path": 'a,"b"\n.png', "top": 3, "score": -0.1234567890123456},
    {"path": "ü.png"},
]


def test_csv_comes_back(tmp_path):
    write_table(tmp_path / "a.csv", COLUMNS, ROWS)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["path"], float(first["score"])) == (ROWS[0]["path"], ROWS[0]["score"])
    assert second == {"path": "ü.png", "top": "", "score": ""}


def test_parquet_comes_back_with_its_kinds(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "a.parquet", COLUMNS, ROWS)
    write_table(tmp_path / "b.parquet", COLUMNS, [])
    found = parquet.read_table(tmp_path / "a.parquet")
    assert found.to_pylist() == [ROWS[0], {"path": "ü.png", "top": None, "score": None}]
    empty = parquet.read_table(tmp_path / "b.parquet")
    assert empty.schema == found.schema
    assert [str(kind) for kind in empty.schema.types] == ["string", "int64", "double"]


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_a_failed_write_leaves_the_old_file(tmp_path, end):
    if end == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"a.{end}"
    write_table(path, COLUMNS, ROWS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"fields not in|onvert"):
        write_table(path, COLUMNS, [{"top": "x", "other": 1}])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_package_is_told_before_any_work(monkeypatch):
    check_format("csv")
    with pytest.raises(ValueError, match=r"format='xlsx': .* \['csv', 'parquet'\]"):
        check_format("xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'skdinoad\[parquet\]'"):
        check_format("parquet")
