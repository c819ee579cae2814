"""JSON that nobody meant is one sentence that names its source, whatever is wrong with it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from stable_audio.audio.json_files import (
    MAX_DEPTH,
    MAX_DIGITS,
    JsonError,
    nests_too_deep,
    parse_json_object,
    parse_json_value,
    read_json_object,
    read_json_value,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1, column 1: is not JSON"),
        ('{\n "a" 1}', "line 2, column 6: is not JSON"),
        ("[" * 100_000, "nests deeper than"),
        ("[" * 100_000 + "]" * 100_000, "nests deeper than"),
        ('{"a":' * 900 + "1" + "}" * 900, "nests deeper than"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nests deeper than"),
        ("9" * (MAX_DIGITS + 1), f"has {MAX_DIGITS + 1} digits"),
        ("9" * 10_000, "has 10000 digits"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
    ],
)
def test_each_is_one_sentence_with_its_source(text: str | bytes, words: str) -> None:
    with pytest.raises(JsonError, match=words) as caught:
        parse_json_value(text, source="there.json")
    assert str(caught.value).startswith("there.json: ")
    assert "\n" not in str(caught.value)


def test_what_is_deep_but_not_too_deep_is_read() -> None:
    value: Any = parse_json_value("[" * MAX_DEPTH + "]" * MAX_DEPTH, source="x")
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == []


def test_numbers_and_constants_as_python_writes_them() -> None:
    value = parse_json_value("[1, -2, 1e3, NaN, -Infinity, 123456789012345678901]", source="x")
    assert value[:3] == [1, -2, 1000.0]
    assert value[3] != value[3]
    assert value[4:] == [float("-inf"), 123456789012345678901]


def test_halves_of_characters_stay_unless_they_are_to_be_repaired() -> None:
    text = r'{"a\ud800": ["\udce9", "\ud83c\udfb9"]}'
    assert parse_json_object(text, source="f") == {"a\ud800": ["\udce9", "🎹"]}
    assert parse_json_object(text.encode(), source="f", repair=True) == {"a\ufffd": ["\ufffd", "🎹"]}


def test_an_object_is_asked_for() -> None:
    assert parse_json_object('{"a": [1]}', source="x") == {"a": [1]}
    with pytest.raises(JsonError, match="x: must hold a JSON object, found list"):
        parse_json_object("[1]", source="x")


def test_files_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"\xc3\xa4": 1}')
    assert read_json_value(path) == read_json_object(path) == {"ä": 1}
    with pytest.raises(FileNotFoundError):
        read_json_object(tmp_path / "absent.json")


def test_a_loop_is_too_deep_and_a_value_in_many_places_is_not() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert nests_too_deep(loop)
    shared: Any = []
    for _ in range(MAX_DEPTH - 1):
        shared = [shared, shared]
    assert not nests_too_deep(shared)


def test_the_error_comes_back_whole_from_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(JsonError("a.json", "is not JSON", "line 1, column 2")))
    assert str(error) == "a.json: line 1, column 2: is not JSON"
    assert error.place == "line 1, column 2"
