"""Write tables as CSV or Parquet files, atomically."""

import csv
from pathlib import Path

from skdinoad.persistence._dump import replacing

__all__ = ["FORMATS", "check_format", "write_table"]


def write_table(path, columns, rows):
    """Write rows in the format given by the file's suffix.

    Parameters
    ----------
    path : str or path
        Ends in ".csv" or ".parquet". An existing file is replaced only on success.
    columns : dict of str to type
        Column names with their types: str, int or float.
    rows : list of dict
        Missing values become empty (CSV) or null (Parquet).

    Raises
    ------
    OSError
        If the file cannot be written; the message names it.
    """
    write = FORMATS[Path(path).suffix.removeprefix(".")]
    with replacing(path) as temporary:
        write(temporary, columns, rows)


def check_format(name):
    """Raise an error if a format is unknown or its package is missing."""
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
    # An explicit schema: types cannot be inferred from no rows or only nulls, and all
    # parts of a data set must have the same types.
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    parquet.write_table(pa.Table.from_pylist(rows, schema), path)


def _import_parquet():
    """Import pyarrow and pyarrow.parquet, or explain how to install them."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "format='parquet' needs pyarrow: pip install 'skdinoad[parquet]', or use "
            "format='csv'."
        ) from error
    return pyarrow, parquet


#: Writer function of each format.
FORMATS = {"csv": _write_csv, "parquet": _write_parquet}
