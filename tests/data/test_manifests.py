"""Tables of captions, as people and programs write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stable_audio.data import DataError, ItemKey
from tests.data.folders import audio_dir, make_folder


def described(root: Path, name: str, content: str | bytes, **entry: Any) -> dict[str, dict[str, Any]]:
    """Metadata by path of a.wav and sub/b.wav under a manifest of this name and content."""
    make_folder(root, {"a.wav": 2000, "sub/b.wav": 2000})
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = audio_dir(root, entry={"manifest": str(root / name), **entry})
    return {m["relpath"]: m for m in (dataset[ItemKey(i, 0)][1] for i in range(2))}


OBJECTS = [
    {"path": "a.wav", "prompt": "one, two", "bpm": 90},
    {"File": "sub/b.wav", "text": "three", "bpm": 120},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "path,prompt,bpm\na.wav,\"one, two\",90\nsub/b.wav,three,120\n"),
        ("m.csv", "path;prompt;bpm\r\na.wav;one, two;90\r\nsub\\b.wav;three;120\r\n"),
        ("m.csv", "sep=;\npath;prompt;bpm\na.wav;one, two;90\nsub/b.wav;three;120\n"),
        ("m.tsv", "path\tprompt\tbpm\na.wav\tone, two\t90\nsub/b.wav\tthree\t120\n"),
        ("m.csv", "path | prompt | bpm\na.wav | one, two | 90\nsub/b.wav | three | 120\n"),
        ("m.csv", 'path  bpm prompt\na.wav   90  "one, two"\n  sub/b.wav 120 three  \n'),
        ("m.csv", "path  bpm prompt\na.wav   90  one, two\nsub/b.wav 120 three\n"),
        ("m.csv", ",path,prompt,bpm\n0,a.wav,\"one, two\",90\n1,sub/b.wav,three,120\n"),
        ("m.csv", 'File Name, Caption , bpm\n a.wav , "one, two" , 90\n sub/b.wav, three, 120\n'),
        ("m.csv", "\ufeffPATH,TEXT,bpm\na,\"one, two\",90\nsub/b,three,120\n"),
        ("m.csv", "path,prompt,bpm\na.wav,\"one, two\",90\nsub/b.wav,three,120\n".encode("utf-16")),
        ("m.json", json.dumps(OBJECTS)),
        ("m.jsonl", json.dumps(OBJECTS, indent=1)),
        ("m.json", json.dumps({row.get("path", "sub/b.wav"): row for row in OBJECTS})),
    ],
)  # fmt: skip
def test_dialects(tmp_path: Path, name: str, content: str | bytes) -> None:
    found = described(tmp_path, name, content)
    assert (found["a.wav"]["prompt"], found["a.wav"]["bpm"]) == ("one, two", 90)
    assert (found["sub/b.wav"]["prompt"], found["sub/b.wav"]["bpm"]) == ("three", 120)


@pytest.mark.parametrize(
    "content", ["a.wav,one\nsub/b.wav,two\n", "a.wav;one\nsub/b.wav;two\n", "a.wav one\nsub/b.wav  two\n"]
)
def test_two_columns_need_no_header(tmp_path: Path, content: str) -> None:
    found = described(tmp_path, "m.csv", content)
    assert [found[p]["prompt"] for p in ("a.wav", "sub/b.wav")] == ["one", "two"]


def test_rows_of_words_without_a_separator_need_no_header_and_no_quotes(tmp_path: Path) -> None:
    found = described(tmp_path, "m.csv", "a.wav a bell, and rain\nsub/b.wav two\n")
    assert found["a.wav"]["prompt"] == "a bell, and rain"


@pytest.mark.parametrize("header", ["path,prompt\n", ""])
def test_a_caption_is_never_cut_at_its_commas(tmp_path: Path, header: str) -> None:
    make_folder(tmp_path, {"a.wav": 2000, "b.wav": 2000})
    (tmp_path / "metadata.csv").write_text(header + "b.wav,one\na.wav,a drum, loud\n")
    dataset = audio_dir(tmp_path)
    assert "prompt" not in dataset[ItemKey(0, 0)][1]
    assert dataset[ItemKey(1, 0)][1]["prompt"] == "one"
    assert [p.reason for p in dataset.problems] == [
        "row 2 has 1 cell more than there are columns; put a caption that holds the separator between "
        "double quotes"
    ]


def test_a_file_of_captions_by_name(tmp_path: Path) -> None:
    found = described(tmp_path, "m.json", json.dumps({"a.wav": "one", "sub/b.wav": "two"}))
    assert [found[p]["prompt"] for p in ("a.wav", "sub/b.wav")] == ["one", "two"]


def test_what_looks_like_a_number(tmp_path: Path) -> None:
    content = "path,prompt,a,b,c,d,e,f\na.wav,1990,1990,007,1.5,1e999,1_000,-3\n"
    found = described(tmp_path, "m.csv", content)["a.wav"]
    assert found["prompt"] == "1990"
    assert [found[k] for k in "abcdef"] == [1990, "007", 1.5, "1e999", "1_000", -3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "sound,words,x\na.wav,one,1\n", r"first line, 'sound,words,x', names no column path"),
        ("m.csv", "path of the sound! a bell,x\na.wav one,x\n", r"names no column path"),
        (
            "m.csv",
            "path,prompt\nx.wav,one\n",
            r"none of its 1 row names a file.*named in .* but does not exist",
        ),
        ("m.csv", "path,prompt\na.wav,Glöckchen\n".encode("latin-1"), "not UTF-8"),
        ("m.json", '["a.wav"]', "one JSON object per line, or a list of objects"),
        ("m.jsonl", "[" * 100_000, "nests deeper"),
        ("m.xlsx", "x", r"a manifest is a \.csv"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        described(tmp_path, name, content)


def test_a_table_that_was_found_and_not_used_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path, {"a.wav": 2000})
    (tmp_path / "metadata.csv").write_text("sound,words\nx,one\n")
    (problem,) = audio_dir(tmp_path).problems
    assert problem.path == str(tmp_path / "metadata.csv")
    assert problem.reason.startswith("not used: its first line, 'sound,words', names no column path")
    (tmp_path / "metadata.csv").write_text("path,words\na.wav,one\n")
    assert not audio_dir(tmp_path).problems
    assert "gives no captions, no column is named prompt or text or caption; it has ['words']" in caplog.text


def test_one_bad_row_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 2000})
    (tmp_path / "metadata.jsonl").write_text('{"path": "a.wav", "prompt": "one"}\n{"prompt": "two"}\n')
    dataset = audio_dir(tmp_path)
    assert dataset[ItemKey(0, 0)][1]["prompt"] == "one"
    assert dataset.problems[0].reason.startswith("row 2 names no file")
