r"""Halves of surrogate pairs: found, named, replaced and escaped, so that what is written is UTF-8."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stable_audio.characters import fault, readable_json, refuse, refuse_name, shown, whole

ANY_TEXT = st.text(st.characters())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
BYTES = os.fsdecode(b"caf\xe9")
"""What Python makes of a word in Latin-1 on a command line or in a folder."""


def test_what_the_first_half_is() -> None:
    assert BYTES == "caf\udce9"
    assert fault("café 🎹 \ufffd") is None
    assert fault(BYTES) == "the byte E9, which is not UTF-8"
    assert fault("a \ud83c bell") == "\\ud83c, half of a surrogate pair, which is no character"
    assert fault("\udc7f\udce9") == "\\udc7f, half of a surrogate pair, which is no character"
    assert fault("\udc80") == "the byte 80, which is not UTF-8"
    assert fault("\udcff") == "the byte FF, which is not UTF-8"
    assert fault("\udd00") == "\\udd00, half of a surrogate pair, which is no character"


def test_halves_become_the_character_for_what_cannot_be_read() -> None:
    value = {"a\ud800": ["x\udfff", 3, ("\ud83c\udfb9",)], "whole 🎹": None}
    # Two halves side by side are no character in Python either.
    assert whole(value) == {"a\ufffd": ["x\ufffd", 3, ("\ufffd\ufffd",)], "whole 🎹": None}


def test_halves_are_shown_as_json_escapes() -> None:
    assert shown(f"🎹 {BYTES} \ud800") == "🎹 caf\\udce9 \\ud800"
    assert readable_json({"é": BYTES}) == '{"é": "caf\\udce9"}'


@example("\ud83c\udfb9")
@given(ANY_TEXT)
def test_any_text_can_be_written(text: str) -> None:
    shown(text).encode()
    whole(text).encode()
    assert (fault(text) is None) == (shown(text) == text == whole(text))


@example({"a\ud800": "\udce9"})
@given(JSON)
def test_readable_json_is_utf8_and_no_half_is_lost(value: object) -> None:
    text = readable_json(value)
    # json joins the escapes of two halves side by side, whichever way they were written.
    assert json.loads(text.encode()) == json.loads(json.dumps(value))


def test_texts_are_refused_with_their_place() -> None:
    refuse("café", "--prompt")
    with pytest.raises(
        ValueError, match=r'^--prompt: found "caf\\udce9" with the byte E9, which is not UTF-8; '
    ):
        refuse(BYTES, "--prompt")


def test_names_of_weights_are_refused() -> None:
    refuse_name("café.safetensors")
    with pytest.raises(
        ValueError, match=r"^caf\\udce9\.ckpt: the name has the byte E9, which is not UTF-8, and weights"
    ):
        refuse_name(f"{BYTES}.ckpt")
