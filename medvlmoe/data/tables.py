"""Read CSV tables as text, with errors that name the file, the line and the mend."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import pandas as pd

from medvlmoe.data.problems import Problems
from medvlmoe.errors import DataError

_OTHER_DELIMITERS = (";", "\t")  # spreadsheets of many countries write these


def read_table(
    path: Path,
    columns: Sequence[str] = (),
    *,
    encoding: str | None = None,
    declare: str = "save it as UTF-8",
    problems: Problems | None = None,
    others: bool = True,
) -> pd.DataFrame:
    """Read a CSV file (``.gz`` too); every cell is a string without blanks around it, empty where there is none.

    Args:
        path: the file.
        columns: columns that must be there.
        encoding: tried when the file is not UTF-8.
        declare: mend offered for a file in another encoding.
        problems: takes down malformed rows, which are then left out; without it they are an error.
        others: keep columns that were not asked for too.

    Returns:
        The columns; the index is the line of the file on which the record ends.

    Raises:
        DataError: the file is missing, in another encoding, not a table, or lacks a column.
    """
    text = read_text(path, encoding, declare)
    collected = Problems() if problems is None else problems
    header, rows, lines = _parsed(path, text, collected, None if others else columns)
    if problems is None:
        collected.refuse()
    table = pd.DataFrame(rows, columns=pd.Index(header), index=pd.Index(lines, dtype="int64"), dtype=str)
    require_columns(path, table, columns)
    return table


def require_columns(path: Path, table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Check that the columns are there.

    Raises:
        DataError: names those that are missing and those that are there.
    """
    there = list(table.columns)
    missing = [column for column in dict.fromkeys(columns) if column not in there]
    if missing:
        raise DataError(f"{path}: no column {', '.join(map(repr, missing))}; there are {', '.join(map(repr, there))}")


def read_text(path: Path, encoding: str | None = None, declare: str = "save it as UTF-8") -> str:
    """A text file (``.gz`` too): UTF-8, else ``encoding``.

    Raises:
        DataError: the file is missing, or in another encoding; ``declare`` is the mend that is offered then.
    """
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
        if "\x00" not in text:  # UTF-16 of plain letters is valid UTF-8 with zero bytes in between
            return text
        start = content.index(0)
    except UnicodeDecodeError as error:
        start = error.start + (len(content) - len(error.object))  # the decoder does not count a byte order mark
    problem = f"byte {start} (line {1 + content[:start].count(10)}) is 0x{content[start]:02x}"
    if encoding is None:
        raise DataError(f"{path}: not UTF-8, {problem}; {declare}")
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except (UnicodeError, LookupError) as error:
        raise DataError(f"{path}: neither UTF-8 ({problem}) nor {encoding} ({error}); {declare}") from error


def _parsed(
    path: Path, text: str, problems: Problems, wanted: Sequence[str] | None
) -> tuple[list[str], list[list[str]], list[int]]:
    first_line = text.partition("\n")[0]
    delimiter = "," if "," in first_line else next((mark for mark in _OTHER_DELIMITERS if mark in first_line), ",")
    records = _records(path, io.StringIO(text, newline="").readlines(), delimiter, problems)
    header = [cell.strip() for cell in next(records, (1, 1, []))[2]]
    first = next(records, None)
    if first is not None and len(first[2]) > len(header):
        header = _without_separators(header, delimiter, len(first[2]))
    # Columns without a name at the end (ChestX-ray14 of 2017 has one) need not be there in the rows.
    needed = max((place + 1 for place, name in enumerate(header) if name), default=0)
    width = len(header)
    kept = range(width) if wanted is None else [header.index(name) for name in wanted if name in header]
    rows: list[list[str]] = []
    lines: list[int] = []
    for begin, end, row in chain([] if first is None else [first], records):
        if len(row) == width:
            rows.append([row[place].strip() for place in kept])
            lines.append(end)
        elif len(row) >= needed and not any(row[width:]):
            row += [""] * (width - len(row))
            rows.append([row[place].strip() for place in kept])
            lines.append(end)
        elif row:  # else an empty line
            begun = f", begun on line {begin}," if end > begin else ""
            found = f"{len(row)} cells{begun} below a header of {width}"
            problems.add(path, f"{found}; put quotes around cells that hold the separator", [end])
    if not any(header):
        raise DataError(f"{path}: the table is empty, it has no header")
    named = [column for column in header if column]
    if len(set(named)) != len(named):
        twice = next(column for column in named if named.count(column) > 1)
        raise DataError(f"{path}: the column '{twice}' is there twice; rename one")
    return [header[place] for place in kept], rows, lines


def _records(path: Path, lines: list[str], delimiter: str, problems: Problems) -> Iterator[tuple[int, int, list[str]]]:
    """First line, last line and cells of each record. A quote that nothing closes costs its own line, not the rest."""
    done = 0
    while done < len(lines):
        begin = done
        reader = csv.reader(lines[begin:], delimiter=delimiter)
        try:
            for row in reader:
                end = begin + reader.line_num
                if end == len(lines) and _is_open(lines[done:end], delimiter):
                    break
                yield done + 1, end, row
                done = end
        except csv.Error:  # a cell longer than any: the quote before it is not closed
            pass
        if done < len(lines):
            problems.add(path, "a quote that opens here is never closed; close or remove it", [done + 1])
            done += 1


def _is_open(lines: Sequence[str], delimiter: str) -> bool:
    """Whether the lines of a record, the last of the file, end inside quotes."""
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def _without_separators(header: list[str], delimiter: str, width: int) -> list[str]:
    """A header in which names with the separator were put in quotes, though their columns are two (ChestX-ray14)."""
    parts = [part.strip() for cell in header for part in cell.split(delimiter)]
    return parts if len(parts) == width else header


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
