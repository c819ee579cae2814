"""How messages are worded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import stable_audio
from stable_audio.wording import plural


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((1, "step"), "1 step"),
        ((0, "bad step"), "0 bad steps"),
        ((2, "process"), "2 processes"),
        ((3, "batch"), "3 batches"),
        ((1, "line", "were"), "1 line was"),
        ((2, "line", "were"), "2 lines were"),
        ((1, "layer", "differ"), "1 layer differs"),
        ((2, "process", "are"), "2 processes are"),
    ],
)
def test_a_number_agrees_with_its_noun_and_verb(given: tuple[int, str], said: str) -> None:
    assert plural(*given) == said


def test_large_numbers_have_the_form_that_is_asked_for() -> None:
    assert plural(12345, "item", form=",") == "12,345 items"


NOUNS = "batches|checkpoints|clips|files|items|layers|lines|parts|rows|sounds|tensors|times"
COUNTED = re.compile(rf"(\{{len\([^{{}}]*\)(:,)?\}}|%d) (\w+ )?({NOUNS})\b")


@pytest.mark.parametrize("folder", ["training", "data", "checkpoints"])
def test_messages_count_by_the_helper(folder: str) -> None:
    """No number of things that may be one stands before a noun for several of them."""
    found = []
    for path in sorted((Path(stable_audio.__file__).parent / folder).rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if COUNTED.search(line):
                found.append(f"{path.name}:{number}: {line.strip()}")
    assert found == []
