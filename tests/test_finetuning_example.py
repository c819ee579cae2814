"""examples/finetuning.py: what it types is what the command takes, and its table says what was measured."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stable_audio.cli import finetune
from stable_audio.evaluation.scores import Scores

SCRIPT = Path(__file__).parents[1] / "examples" / "finetuning.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("finetuning_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_trains_each_kind_by_the_command(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed: list[argparse.Namespace] = []

    def run(words: list[str], **_: Any) -> None:
        parser = argparse.ArgumentParser()
        finetune.add_arguments(parser)
        assert words[1:4] == ["-m", "stable_audio", "finetune"]
        typed.append(parser.parse_args(words[4:]))

    monkeypatch.setattr(subprocess, "run", run)
    args = argparse.Namespace(
        out=tmp_path,
        kinds=("lora", "dora-rows", "full"),
        ckpt_path=Path("model.safetensors"),
        more=["--steps", "7"],
    )
    costs = example.train_all(args)
    assert [(a.adapter, a.full) for a in typed] == [("lora", False), ("dora-rows", False), (None, True)]
    assert all(a.steps == 7 for a in typed)
    assert set(costs) == {"lora", "dora-rows", "full"}
    assert len(list((tmp_path / "sounds").glob("*.wav"))) == 24
    assert len((tmp_path / "keep.jsonl").read_text().splitlines()) == example.KEPT


def test_the_table(example: Any) -> None:
    scores = Scores.of([], []).as_dict() | {"timbre": 0.5, "pitch": 0.25}
    row = {
        "kind": "lora",
        "megabytes": 1.1,
        "differing_when_off": 0,
        "seconds": 61.2,
        "processor_seconds": 99.6,
    }
    rows = [{**row, "new": scores, "unheard": scores, "old": scores}]
    lines = example.table(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| lora | 1.1 MB | 61 s | 100 s | 50% | 25% | 50% | 50% | 25% | bit-equal |"


def test_without_the_model_it_says_how_to_get_it(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main(["--ckpt-path", str(tmp_path / "none.safetensors")]) == 2
    assert "make demo" in capsys.readouterr().err
