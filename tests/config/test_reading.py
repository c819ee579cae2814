"""JSON files: what is wrong with them is said with its place."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_audio.config.reading.plain import parse_json, plain, read_json
from stable_audio.config.reporting.problems import ConfigError, json_path
from stable_audio.wording import did_you_mean, excerpt


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_json(text, source="f.json")
    return [str(p) for p in caught.value.problems]


def test_syntax_errors_have_line_and_column() -> None:
    (found,) = problems('{\n  "a": 1,\n  "b" 2\n}')
    assert found.startswith("line 3, column 7: is not JSON")


def test_texts_that_are_not_unicode_are_named_with_their_path() -> None:
    hint = "write it in UTF-8; a file of such a name needs another, or a link to it"
    assert problems(r'{"datasets": [{"path": "/caf\udce9"}], "demo\ud83c": "a \ud83c\udfb9 piano"}') == [
        f"$['demo\\ud83c']: its key has \\ud83c, half of a surrogate pair, which is no character; {hint}",
        f'$.datasets[0].path: found "/caf\\udce9" with the byte E9, which is not UTF-8; {hint}',
    ]


@pytest.mark.parametrize("text", ["", "[1", '{"a": }', "nul", "{'a': 1}"])
def test_broken_text_is_one_problem(text: str) -> None:
    assert len(problems(text)) == 1


def test_duplicate_keys_are_named_with_their_path() -> None:
    found = problems('{"a": {"b": 1, "c": [{"d": 1, "d": 2}], "b": 3}}')
    assert found == [
        "$.a.b: the key appears twice; keep one",
        "$.a.c[0].d: the key appears twice; keep one",
    ]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have(number: str) -> None:
    (found,) = problems('{"a": [1, ' + number + "]}")
    assert found.startswith("$.a[1]: found ")
    assert "not a JSON value" in found


def test_the_root_must_be_an_object() -> None:
    assert problems("[1, 2]") == ["$: the file must hold an object, found list"]


def test_deep_nesting_is_a_problem_not_a_crash() -> None:
    assert len(problems("[" * 100_000)) == 1


@pytest.mark.parametrize(
    ("content", "word"), [(None, "No such file"), (b"\xff\xfe\x00{", "UTF-8")], ids=["absent", "binary"]
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, word: str) -> None:
    path = tmp_path / "c.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=word) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(tmp_path)


def test_a_file_that_is_not_there_has_no_json_path(tmp_path: Path) -> None:
    path = tmp_path / "nope.json"
    with pytest.raises(ConfigError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: cannot be read: ")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_dicts_are_copied_and_checked() -> None:
    given_data: dict[str, Any] = {"a": (1, 2), "b": {"c": [3.0]}}
    made = plain(given_data, source="config")
    assert made == {"a": [1, 2], "b": {"c": [3.0]}}
    made["b"]["c"].append(1)
    assert given_data["b"] == {"c": [3.0]}
    with pytest.raises(ConfigError, match=r"\$\.a\.x: found a set, which JSON cannot hold"):
        plain({"a": {"x": {1}}}, source="config")


@given(st.text())
def test_no_text_ends_in_a_traceback(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_json(text, source="x"), dict)


@given(st.lists(st.one_of(st.text(), st.integers(0, 99)), max_size=4))
def test_paths_differ_where_places_differ(loc: list[Any]) -> None:
    path = json_path(loc)
    assert path.startswith("$")
    assert json_path([*loc, "x"]) == path + ".x"
    assert json_path([*loc, 3]) == path + "[3]"


def test_paths_quote_odd_keys() -> None:
    assert json_path(["a", 0, "b c", "$schema"]) == "$.a[0]['b c'].$schema"


def test_suggestions() -> None:
    assert did_you_mean("depht", ["depth", "width"]) == "did you mean 'depth'?"
    assert did_you_mean("zzz", ["depth", "width"]) == "allowed: 'depth', 'width'"
    assert did_you_mean("x", []) == "no key is allowed here"
    assert len(excerpt("x" * 500)) == 60


def test_numbers_beyond_64_bits_are_named_with_their_path() -> None:
    assert problems('{"a": [1, 9223372036854775808]}') == [
        "$.a[1]: found 9223372036854775808; whole numbers go up to 9223372036854775807"
    ]
    with pytest.raises(ConfigError, match=r"\$\.a: found a number of about 401 digits"):
        plain({"a": 10**400}, source="config")


def test_a_dict_that_holds_itself_is_a_problem_not_a_crash() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    with pytest.raises(ConfigError, match="nests deeper"):
        plain(loop, source="config")
