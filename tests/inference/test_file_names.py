"""Templates for the names of rendered files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_audio.inference.rendering.jobs import Job
from stable_audio.inference.rendering.names import MAX_BYTES, NameTemplate, stems
from stable_audio.inference.rendering.recipe import InputFile, Recipe

RECIPE = Recipe(
    checkpoint=InputFile("/runs/bells.safetensors", "12"),
    use_ema=True,
    dtype="float32",
    config={},
    conditioning={},
    negative_conditioning=None,
    seed=7,
    seconds=1.5,
    sample_size=100,
    sampling={"cfg_scale": 2.5, "sampler": "dpmpp-2m", "cfg_interval": [0.0, 1.0], "options": {"eta": 0.5}},
)


def _stem(template: str, job: Job | None = None, **changes: object) -> str:
    return NameTemplate(template).stem(3, job or Job({"prompt": "A bell, low"}), replace(RECIPE, **changes))


@pytest.mark.parametrize(
    ("template", "stem"),
    [
        ("{index}_{name}", "0003_a-bell-low"),
        ("{index:02d}-{prompt}-{seed}", "03-a-bell-low-7"),
        ("{cfg_scale}_{cfg_scale:.2f}_{sampler}", "2.5_2.50_dpmpp-2m"),
        ("{checkpoint} {seconds} {cfg_interval} {options}", "bells 1.5 0-1 eta-0-5"),
        ("con", "con_"),
        ("..{seed}. ", "7"),
    ],
)
def test_fields_are_written_as_names(template: str, stem: str) -> None:
    assert _stem(template) == stem


def test_the_digest_is_that_of_the_recipe() -> None:
    assert _stem("{digest}") == RECIPE.digest()[:8]


def test_a_sound_is_named_by_its_file() -> None:
    job = Job({"source": "/sounds/mix one.wav"})
    assert _stem("{source}", job, condition_audio={"source": InputFile("x", "1")}) == "mix-one"


def test_edits_are_fields_where_they_are_in_use() -> None:
    edit = {"init_audio": InputFile("/sounds/My hum.wav", "1"), "init_noise_level": 0.3}
    assert _stem("{init_audio}_{init_noise_level}", **edit) == "my-hum_0.3"
    with pytest.raises(ValueError, match="which this clip has no value for"):
        _stem("{init_audio}")


@given(st.text() | st.floats() | st.lists(st.text(), max_size=2) | st.none())
def test_no_value_leaves_the_folder(value: object) -> None:
    stem = _stem("{prompt}", Job({"prompt": value}))
    assert stem
    assert not set(stem) & set('/\\:*?"<>|\n\0 ')
    assert not stem.startswith(".")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{prompt", "--name '{prompt'"),
        ("a/{seed}", "'/' cannot be part of a file name on every system"),
        ("{seed}?", "cannot be part of a file name"),
        ("{seed.real}", "a field is a name in braces"),
        ("{seed!r}", "a field is a name in braces"),
        ("{}", "a field is a name in braces"),
        ("{index:{seed}}", "a field is a name in braces"),
    ],
)
def test_templates_that_cannot_work_are_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        NameTemplate(template)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{promt}", "here: --name has {promt}, which this clip has no value for; did you mean 'prompt'"),
        ("{seed:q}", "here: --name has {seed:q}, but seed is 7"),
        ("x" * (MAX_BYTES + 1), "has 201 bytes"),
        ("{seed}", "there: the name '7' is that of here, too; --name needs another field"),
        ("{prompt}", "there: the name 'straße' is that of here, too"),
    ],
)
def test_names_that_cannot_work_are_listed(template: str, message: str) -> None:
    jobs = [Job({"prompt": "STRASSE"}, source="here"), Job({"prompt": "Straße"}, source="there")]
    with pytest.raises(ValueError) as raised:
        stems(NameTemplate(template), jobs, [RECIPE, RECIPE])
    assert message in str(raised.value)


def test_the_usual_names_differ_for_a_thousand_equal_prompts() -> None:
    jobs = [Job({"prompt": "a"})] * 1000
    assert len(set(stems(NameTemplate(), jobs, [RECIPE] * 1000))) == 1000


def test_names_stay_within_a_folder_of_any_depth(tmp_path: Path) -> None:
    stem = _stem("{prompt}{index}", Job({"prompt": "音" * 500}))
    assert len(stem.encode()) <= MAX_BYTES
    (tmp_path / f".{stem}.01234567.partial.flac").touch()
