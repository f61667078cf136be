"""Rows as files of CSV or Parquet, whole or not at all."""

import csv
from pathlib import Path

from skdinoad.persistence._dump import replacing

__all__ = ["FORMATS", "check_format", "write_table"]


def write_table(path, columns, rows):
    """Write rows in the format that the file's name ends in.

    Parameters
    ----------
    path : str or path
        Ends in ".csv" or ".parquet". An old file is replaced once the new one is whole.
    columns : dict of str to type
        str, int or float of each.
    rows : list of dict
        What a row lacks is empty, or null.

    Raises
    ------
    OSError
        If the file cannot be written, naming it.
    """
    write = FORMATS[Path(path).suffix.removeprefix(".")]
    with replacing(path) as temporary:
        write(temporary, columns, rows)


def check_format(name):
    """Refuse an unknown format, or one whose package is missing, before any work."""
    if name not in FORMATS:
        raise ValueError(f"format={name!r}: expected one of {[*FORMATS]}.")
    if name == "parquet":
        _import_parquet()


def _write_csv(path, columns, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path, columns, rows):
    pa, parquet = _import_parquet()
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    # Of no rows, or of nulls alone, the kinds could not be guessed, and the parts of a
    # data set would not be of one kind.
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    parquet.write_table(pa.Table.from_pylist(rows, schema), path)


def _import_parquet():
    """Return the modules pyarrow and pyarrow.parquet, or say how to get them."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "format='parquet' needs pyarrow: pip install 'skdinoad[parquet]', or use "
            "format='csv'."
        ) from error
    return pyarrow, parquet


#: How a file of each format is written.
FORMATS = {"csv": _write_csv, "parquet": _write_parquet}
