"""Numbers and flags that a command could not use are refused, not left out of account."""

from __future__ import annotations

from pathlib import Path

import pytest

from stable_audio.cli import main
from stable_audio.factory import create_model_from_config
from stable_audio.inference.memory.generation import plan_generation
from tests.training.building import tiny_config, write_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with model.json and data.json."""
    write_files(tmp_path, tiny_config())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of what a command that cannot run says."""
    try:
        status = main(line.split())
    except SystemExit as stop:
        status = stop.code  # type: ignore[assignment]
    assert status == 2
    captured = capsys.readouterr()
    assert not captured.out
    return captured.err.splitlines()[-1]


NUMBERS = {
    "check model.json --dry --batch-size 0": "--batch-size: a whole number of at least 1, found '0'",
    "plan model.json --device-memory -3": "--device-memory: a finite number above 0, found '-3'",
    "plan model.json --device-memory nan": "--device-memory: a finite number above 0, found 'nan'",
    "plan model.json --processes 0": "--processes: a whole number of at least 1, found '0'",
    "plan model.json --generate --seconds -1": "--seconds: a finite number above 0, found '-1'",
    "plan model.json --generate --batch 0": "--batch: a whole number of at least 1, found '0'",
    "data-report data.json --num-workers 0": "--num-workers: a whole number of at least 1, found '0'",
    "data-report data.json --sample-rate 0": "--sample-rate: a whole number of at least 1, found '0'",
    "data-report data.json --sample-size -5": "--sample-size: a whole number of at least 1, found '-5'",
    "bakeoff model.json --dry --batch-size 0": "--batch-size: a whole number of at least 1, found '0'",
    "bakeoff model.json --dry --repeats 0": "--repeats: a whole number of at least 1, found '0'",
    "bakeoff model.json --sampling-steps 0": "--sampling-steps: a whole number of at least 1, found '0'",
    "data-report data.json --channels 0": "--channels: a whole number of at least 1, found '0'",
}


@pytest.mark.parametrize("line", NUMBERS)
def test_a_number_out_of_range_is_refused_with_its_flag(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(line, capsys).endswith(f"argument {NUMBERS[line]}")


OF_THE_OTHER_PLAN = {
    "plan model.json --seconds 5 --batch 2": "--seconds, --batch: of a plan of generation; add --generate",
    "plan model.json --dtype float16": "--dtype: of a plan of generation; add --generate",
    "plan model.json --generate --batch-size 0": "--batch-size: of a plan of training, but --generate plans",
    "plan model.json --generate --choices": "--choices: of a plan of training, but --generate plans",
    "plan model.json data.json --generate": "the dataset file data.json: of a plan of training",
}


@pytest.mark.parametrize("line", OF_THE_OTHER_PLAN)
def test_flags_of_the_other_plan_are_refused(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"error: {OF_THE_OTHER_PLAN[line]}" in refusal(line, capsys)


def test_a_strategy_is_refused_on_one_device_as_on_many(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--strategy foo: its memory is not planned" in refusal("plan model.json --strategy foo", capsys)
    said = refusal("plan model.json --shard-size 2", capsys)
    assert "--shard-size is for --strategy hsdp, and this plan has --strategy auto" in said


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"seconds": -1.0}, {"seconds": float("nan")}])
def test_a_plan_needs_clips_of_some_length(wrong: dict[str, float]) -> None:
    model = create_model_from_config(tiny_config(), device="meta")
    with pytest.raises(ValueError, match="batch_size must be at least 1 and seconds a finite number"):
        plan_generation(model, **wrong)  # type: ignore[arg-type]
