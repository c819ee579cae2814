"""Read tables of captions: CSV in its dialects, JSON lines and JSON."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import JsonError, parse_json_value
from stable_audio.data.base import DataError, Rejected
from stable_audio.types import Metadata
from stable_audio.wording import plural

_LOG = logging.getLogger(__name__)

PATH_COLUMNS = ("path", "relpath", "file_name", "filename", "file")
CAPTION_COLUMNS = ("prompt", "text", "caption")
_TABLES = (".csv", ".tsv")
_JSON = (".jsonl", ".ndjson", ".json")
_DELIMITERS = (",", ";", "\t", "|")
_SURPLUS = ""
"""Key under which a row has the number of its cells without a column."""
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?|-?\.\d+([eE][-+]?\d+)?")


def read_manifest(
    source: str, root: str, paths: Sequence[str], *, required: bool
) -> tuple[dict[str, Metadata], list[Rejected]]:
    """The rows of a manifest by the path of their file, and the problems of the manifest.

    Args:
        root: the folder to which paths in it are relative; the manifest's folder is tried as well.
        paths: the sound files of the folder.
        required: whether the dataset file names this manifest, so that it must match some file.

    Raises:
        DataError: it cannot be read; or it is required, and not one of its rows names a file.
    """
    by_path: dict[str, Metadata] = {}
    problems: list[Rejected] = []
    rows = _rows(source, root)
    files = _Files(source, root, paths)
    for number, row in enumerate(rows, start=1):
        if surplus := row.pop(_SURPLUS, None):
            reason = (
                f"row {number} has {plural(surplus, 'cell')} more than there are columns; put a caption "
                "that holds the separator between double quotes"
            )
            problems.append(Rejected(source, reason))
            continue
        column = next((c for c in PATH_COLUMNS if row.get(c)), None)
        if column is None:
            reason = (
                f"row {number} names no file (one of {', '.join(PATH_COLUMNS)}); it has {sorted(row)[:8]}"
            )
            problems.append(Rejected(source, reason))
            continue
        path = files.find(str(row[column]))
        if not os.path.isfile(path):
            problems.append(Rejected(path, f"named in {source} but does not exist"))
            continue
        by_path[path] = {k: v for k, v in row.items() if k != column}
    if rows and not by_path:
        summary = (
            f"none of its {plural(len(rows), 'row')} names a file in {root}; the first: {problems[0].reason}"
        )
        if required:
            raise DataError(f"{source}: {summary} ({problems[0].path})")
        problems = [Rejected(source, summary)]
    if by_path and not any(row.get(c) for row in by_path.values() for c in CAPTION_COLUMNS):
        columns = sorted({name for row in by_path.values() for name in row})
        _LOG.warning(
            "%s: gives no captions, no column is named %s; it has %s",
            source,
            " or ".join(CAPTION_COLUMNS),
            columns[:12],
        )
    return by_path, problems


class _Files:
    """Resolves the names in a table to sound files."""

    def __init__(self, source: str, root: str, paths: Sequence[str]) -> None:
        self.root, self.manifest_folder = root, os.path.dirname(os.path.abspath(source))
        self.paths = {os.path.normpath(path) for path in paths}
        self.stems: dict[str, str | None] = {}
        for path in self.paths:
            stem = os.path.splitext(path)[0]
            self.stems[stem] = None if stem in self.stems else path  # ambiguous: two files of one stem

    def find(self, name: str) -> str:
        """The path for a name in a row: as it is, with slashes for backslashes, or without its suffix."""
        first = os.path.normpath(os.path.join(self.root, name))
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            for folder in (self.root, self.manifest_folder):
                path = os.path.normpath(os.path.join(folder, spelling))
                if path in self.paths:
                    return path
                if match := self.stems.get(path):
                    return match
        return first


def _rows(source: str, root: str) -> list[Metadata]:
    suffix = os.path.splitext(source)[1].lower()
    if suffix not in (*_TABLES, *_JSON):
        raise DataError(f"{source}: a manifest is a {', '.join((*_TABLES, *_JSON))} file")
    try:
        raw = Path(source).read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        return _table(text, source, root) if suffix in _TABLES else _objects(text, source)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: manifest is not UTF-8 ({error}); save it as UTF-8") from error
    except (OSError, JsonError, csv.Error) as error:
        raise DataError(f"{source}: manifest cannot be read ({error})") from error


def _objects(text: str, source: str) -> list[Metadata]:
    """JSON lines, a list of objects, or an object {file: caption or object}."""
    try:
        value = parse_json_value(text, source=source, repair=True)
    except JsonError:
        lines = [line for line in text.splitlines() if line.strip()]
        value = [
            parse_json_value(line, source=f"line {n}", repair=True) for n, line in enumerate(lines, start=1)
        ]
    if isinstance(value, dict) and not any(
        _column_name(k) in (*PATH_COLUMNS, *CAPTION_COLUMNS) for k in value
    ):
        entries = [{"path": k, **(v if isinstance(v, dict) else {"prompt": v})} for k, v in value.items()]
        value = entries if all(isinstance(v, (dict, str)) for v in value.values()) else [value]
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{source}: a manifest holds one JSON object per line, or a list of objects")
    return [{_column_name(name): v for name, v in row.items()} for row in rows]


def _table(text: str, source: str, root: str) -> list[Metadata]:
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and lines[0].lower().startswith("sep="):  # a hint for a spreadsheet program
        text = text.split("\n", 1)[1]
        lines = lines[1:]
    if not lines:
        return []
    for delimiter in _DELIMITERS:
        if rows := _rows_by_column(_cells(text, delimiter), root):
            return rows
    if rows := _space_separated(lines, root):
        return rows
    raise DataError(
        f"{source}: its first line, {lines[0].strip()[:80]!r}, names no column {', '.join(PATH_COLUMNS)}; "
        "begin the table with a line such as path,prompt"
    )


def _cells(text: str, delimiter: str) -> list[list[str]]:
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in table if any(cell.strip() for cell in row)]


def _space_separated(lines: list[str], root: str) -> list[Metadata] | None:
    """Read a table whose columns are separated by spaces; the last column takes the rest of its line."""
    table = _cells("\n".join(line.strip() for line in lines), " ")
    # A header such as "path of the sound, caption" is not separated by spaces.
    plain = not any(delimiter in lines[0].strip() for delimiter in _DELIMITERS)
    has_header = plain and any(_column_name(cell) in PATH_COLUMNS for cell in table[0])
    columns = len(table[0]) if has_header else 2
    rows = [_merge_surplus(row, columns) for row in table]
    has_names = has_header or (len(rows[0]) == 2 and _column_name(table[0][0]) not in PATH_COLUMNS)
    return _rows_by_column(rows, root) if has_names else None


def _merge_surplus(row: list[str], columns: int) -> list[str]:
    """Join surplus cells into the last column, in a table separated by spaces."""
    return [*row[: columns - 1], *filter(None, [" ".join(row[columns - 1 :])])]


def _rows_by_column(table: list[list[str]], root: str) -> list[Metadata] | None:
    """The rows as {column: cell}; None if the table needs a header and the first row is none."""
    header = [_column_name(cell) for cell in table[0]]
    if any(name in PATH_COLUMNS for name in header):
        return [_with_numbers(_row(header, cells)) for cells in table[1:]]
    if len(header) == 2 and os.path.isfile(os.path.join(root, table[0][0].replace("\\", "/"))):
        return [_row(["path", "prompt"], cells) for cells in table]
    return None


def _row(names: list[str], cells: list[str]) -> dict[str, Any]:
    surplus = sum(1 for cell in cells[len(names) :] if cell)
    values = {name: cell for name, cell in zip(names, cells, strict=False) if name}
    return values | ({_SURPLUS: surplus} if surplus else {})


def _column_name(name: str) -> str:
    """The name of a column, in its standard spelling if the package uses it."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    return plain if plain in (*PATH_COLUMNS, *CAPTION_COLUMNS) else name.strip()


def _with_numbers(row: dict[str, Any]) -> Metadata:
    """Convert the text of CSV cells to numbers, except in columns that name files or captions.

    Text in an unusual spelling of a number, such as 007, stays text.
    """
    return {
        name: value if name in (*PATH_COLUMNS, *CAPTION_COLUMNS, _SURPLUS) else _number(value)
        for name, value in row.items()
        if value != ""
    }


def _number(text: str) -> Any:
    if _WHOLE.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and not re.match(r"-?0\d", text):
        value = float(text)
        return value if math.isfinite(value) else text
    return text
