from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stable_audio.cli.key_values import key_values
from stable_audio.inference.rendering.grid import GRID
from stable_audio.inference.rendering.job_lines import read_jobs
from stable_audio.inference.rendering.jobs import Job, repeated
from stable_audio.inference.rendering.names import slug
from stable_audio.inference.rendering.recipe import InputFile, Recipe, file_digest, read_recipe, write_recipe

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
RELAXED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


@RELAXED
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=5))
def test_every_plain_object_is_conditioning(tmp_path: Path, items: list[dict[str, Any]]) -> None:
    # These two keys say that a line is more than conditioning.
    items = [{k: v for k, v in item.items() if k not in ("conditioning", GRID)} for item in items]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(i, ensure_ascii=False) for i in items), encoding="utf-8")
    assert [job.conditioning for job in read_jobs(path)] == items


@RELAXED
@given(st.binary(max_size=80) | JSON.map(lambda v: json.dumps(v).encode()))
def test_anything_else_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    message, jobs = str(path), []
    try:
        jobs = read_jobs(path)
    except ValueError as error:
        message = str(error)
    assert message.startswith(str(path))
    assert all(isinstance(job.conditioning, dict) for job in jobs)


@RELAXED
@given(st.text(min_size=1).filter(lambda k: "=" not in k), JSON)
def test_conditions_take_json_values(key: str, value: Any) -> None:
    assert key_values([f"{key}={json.dumps(value)}"], "--condition") == {key: value}


def test_conditions_take_text() -> None:
    assert key_values(["a=b=c", "n=3"], "--condition") == {"a": "b=c", "n": 3}


@RELAXED
@given(st.text())
def test_file_names_are_safe(name: str) -> None:
    stem = slug(name)
    assert 0 < len(stem) <= 40
    assert not set(stem) & set('/\\:*?"<>| \n\0.')


def test_repetition_counts_own_seeds_up() -> None:
    jobs = repeated([Job({}), Job({}, seed=5)], 2)
    assert [job.seed for job in jobs] == [None, None, 5, 6]


def _recipe(tmp_path: Path, **changes: Any) -> Recipe:
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    values: dict[str, Any] = {
        "checkpoint": InputFile.of(weights),
        "use_ema": True,
        "dtype": "float32",
        "config": {"sample_rate": 1000},
        "conditioning": {"prompt": "bell"},
        "negative_conditioning": None,
        "seed": 1,
        "seconds": 2.0,
        "sample_size": 2000,
        "sampling": {"steps": 3},
    }
    return Recipe(**{**values, **changes})


def test_recipes_survive_the_file(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, init_audio=InputFile("a.wav", "12"), init_noise_level=0.5)
    write_recipe(tmp_path / "clip.json", recipe, {"peak": 0.5}, {})
    assert read_recipe(tmp_path / "clip.json") == recipe


def test_paths_that_are_not_utf8_survive_the_file(tmp_path: Path) -> None:
    sounds = {"a": InputFile("caf\udce9/a.wav", "3")}
    recipe = _recipe(
        tmp_path, init_audio=InputFile("/\udce9/a.wav", "12"), init_noise_level=0.5, condition_audio=sounds
    )
    write_recipe(tmp_path / "clip.json", recipe, {"peak": 0.5}, {})
    assert read_recipe(tmp_path / "clip.json") == recipe
    plain = _recipe(tmp_path, conditioning={"prompt": "a character for private use: \U0010f8e9"})
    write_recipe(tmp_path / "clip.json", plain, {"peak": 0.5}, {})
    assert read_recipe(tmp_path / "clip.json") == plain


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"seconds": 1.0},
        {"conditioning": {"prompt": "drum"}},
        {"dtype": "bfloat16"},
        {"sampling": {"steps": 4}},
        {"checkpoint": InputFile("weights", "other")},
    ],
)
def test_digests_follow_what_shapes_the_sound(tmp_path: Path, change: dict[str, Any]) -> None:
    assert _recipe(tmp_path, **change).digest() != _recipe(tmp_path).digest()


def test_digests_do_not_follow_paths(tmp_path: Path) -> None:
    moved = InputFile("elsewhere", _recipe(tmp_path).checkpoint.digest)
    assert _recipe(tmp_path, checkpoint=moved).digest() == _recipe(tmp_path).digest()


def test_file_digests_see_both_ends(tmp_path: Path) -> None:
    path, found = tmp_path / "big", set()
    for head, tail in [(b"a", b"a"), (b"a", b"b"), (b"b", b"a")]:
        path.write_bytes(head + bytes(3 << 20) + tail)
        found.add(file_digest(path))
    assert len(found) == 3
