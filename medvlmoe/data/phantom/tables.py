"""CSV files with the same bytes on every run, plain or gzip."""

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, quoting: bool = True) -> None:
    """Write a CSV file; ``None`` becomes an empty cell; a ``.gz`` suffix compresses without a time stamp.

    ``quoting=False`` writes cells as they are: official headers exist that hold unquoted commas.
    """
    text = io.StringIO()
    if quoting:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    else:
        for row in (columns, *rows):
            text.write(",".join("" if cell is None else str(cell) for cell in row) + "\n")
    content = text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
