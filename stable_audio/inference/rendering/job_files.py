"""Files of jobs: JSON Lines, JSON and YAML as plain values, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import (
    JsonError,
    each_key_once,
    nests_too_deep,
    parse_json_object,
    parse_json_value,
)
from stable_audio.inference.rendering.jobs import listed
from stable_audio.shipped import file_or_shipped

YAML = (".yaml", ".yml")
"""Suffixes of YAML files."""


def read_lines(path: str | Path) -> list[tuple[dict[str, Any], str]]:
    """(line, its place) of a file: of JSON Lines a line, of JSON and YAML the object or each of a list.

    Raises:
        ValueError: with the place of everything that is wrong.
        ImportError: YAML without PyYAML.
    """
    path = Path(file_or_shipped(path, "prompts"))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if path.suffix.lower() in YAML:
        lines = list(_entries(_yaml(text, path), path))
    elif path.suffix.lower() == ".json" and not _has_lines(text):
        value = parse_json_value(text, source=str(path), object_pairs_hook=each_key_once)
        lines = list(_entries(value, path))
    else:
        lines = _json_lines(text, path)
    if not lines:
        raise ValueError(f"{path}: has no lines; write one JSON object with conditioning per line")
    return lines


def _json_lines(text: str, path: Path) -> list[tuple[dict[str, Any], str]]:
    lines, problems = [], []
    # Not splitlines: JSON strings may hold other characters that count as line ends there.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            source = f"{path}, line {number}"
            try:
                values = parse_json_object(line, source=source, object_pairs_hook=each_key_once)
                lines.append((values, source))
            except JsonError as error:
                # `source` already has the line, so only the column is added.
                column = error.place.rpartition(", ")[2]
                problems.append(f"{source}{', ' if column else ''}{column}: {error.reason}")
    if problems:
        raise ValueError(listed(problems))
    return lines


def _has_lines(text: str) -> bool:
    """Whether a JSON file has several values, one a line, the first of which is an object."""
    first, *others = [line for line in text.split("\n") if line.strip()] or [""]
    try:
        return bool(others) and isinstance(parse_json_value(first, source=""), dict)
    except JsonError:
        return False


def _entries(value: Any, path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The object of a file, or those of its list, with their places."""
    if isinstance(value, dict):
        yield value, str(path)
        return
    if not isinstance(value, list):
        raise ValueError(f"{path}: must hold an object or a list of them, found {type(value).__name__}")
    problems = [
        f"{path}, entry {number}: must be an object, found {type(entry).__name__}"
        for number, entry in enumerate(value, start=1)
        if not isinstance(entry, dict)
    ]
    if problems:
        raise ValueError(listed(problems))
    yield from ((entry, f"{path}, entry {number}") for number, entry in enumerate(value, start=1))


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            f'{path}: YAML files need PyYAML: pip install "stable-audio[yaml]"; JSON needs nothing'
        ) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        problems = [f"{path}: {problem}" for problem in _doubled_keys(root)]
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: is not YAML that can be used: {' '.join(str(error).split())}") from error
    if nests_too_deep(value):
        raise ValueError(f"{path}: nests deeper than any file of this kind does")
    problems += [f"{path}: {problem}" for problem in _no_json(value)]
    if problems:
        raise ValueError(listed(list(dict.fromkeys(problems))))
    return value


def _doubled_keys(root: Any) -> Iterator[str]:
    """Keys that an object has twice, of which YAML readers take the last without a word."""
    nodes, visited = [root], set()
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in visited or isinstance(node.value, str):
            continue
        visited.add(id(node))
        keys: set[str] = set()
        for item in node.value:
            if isinstance(item, tuple):
                key = str(item[0].value)
                if key in keys:
                    yield f"line {item[0].start_mark.line + 1}: has the key '{key}' twice"
                keys.add(key)
                nodes.append(item[1])
            else:
                nodes.append(item)


def _no_json(root: Any) -> Iterator[str]:
    """Values that YAML has and JSON has not, such as dates, and keys that are no texts."""
    values, visited = [root], set()
    while values:
        value = values.pop()
        if isinstance(value, (dict, list)):
            if id(value) not in visited:
                visited.add(id(value))
                values.extend(value.values() if isinstance(value, dict) else value)
                if isinstance(value, dict):
                    yield from (
                        f"the key {k!r} must be a text; write it in quotes"
                        for k in value
                        if not isinstance(k, str)
                    )
        elif value is not None and not isinstance(value, (str, int, float)):
            yield f"{value!r} is no JSON value; write it in quotes"
