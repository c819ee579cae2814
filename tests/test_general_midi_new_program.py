"""examples/general_midi_new_program.py: the lesson, the command that it types, what is asked, the table."""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stable_audio.cli import finetune
from stable_audio.evaluation.instruments import InstrumentClassifier, learn_panel

ROOT = Path(__file__).parents[1]
RATE = 22_050


@pytest.fixture(autouse=True)
def _examples(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield
    for name in ("finetuning", "general_midi", "general_midi_judge", "general_midi_new_program"):
        sys.modules.pop(name, None)


def tone(pitch: int, harmonics: tuple[int, ...], gain: float = 0.3) -> np.ndarray:
    times = np.arange(RATE * 5 // 4) / RATE
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    return gain * sum(np.sin(2 * np.pi * k * frequency * times) / k for k in harmonics)


HARMONICS = {"flute": (1,), "violin": (1, 2, 3, 4, 5), "synth brass": (1, 7, 8, 9)}


def write_notes(folder: Path, instrument: str, words: dict[str, int], pitches: range) -> None:
    from general_midi import Note, write

    for pitch in pitches:
        for word, velocity in words.items():
            note = Note(instrument, pitch, word, velocity)
            write(note, tone(pitch, HARMONICS[instrument], velocity / 400), folder, RATE)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The notes of two old instruments, and those of a new one, in the folders that the scripts write."""
    from general_midi import LOUDNESS

    data, new = tmp_path / "data", tmp_path / "new"
    for instrument in ("flute", "violin"):
        write_notes(data / "train", instrument, LOUDNESS, range(60, 64))
        write_notes(data / "val", instrument, {"soft": 55}, range(64, 66))
        write_notes(data / "others", instrument, {"45": 45, "125": 125}, range(60, 68))
    write_notes(new / "notes", "synth brass", {"loud": 115}, range(62, 66))
    write_notes(new / "sounds", "synth brass", {"loud": 115}, range(63, 64))
    write_notes(new / "others", "synth brass", {"45": 45, "125": 125}, range(60, 68))
    return data, new


def test_the_lesson_is_20_notes_over_the_whole_range_in_each_loudness() -> None:
    from general_midi import captioned_notes
    from general_midi_new_program import LESSON, lesson

    notes = captioned_notes("synth brass", argparse.Namespace(low=48, high=83))
    chosen = lesson(notes)
    assert len(notes) == 108
    assert len(chosen) == len({note.pitch for note in chosen}) == LESSON == 20
    assert {note.pitch for note in chosen} >= {48, 83}
    assert [sum(note.loudness == word for note in chosen) for word in ("soft", "medium", "loud")] == [7, 7, 6]


def test_it_trains_each_kind_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from general_midi_new_program import train

    typed: list[argparse.Namespace] = []

    def run(words: list[str], **_: Any) -> None:
        parser = argparse.ArgumentParser()
        finetune.add_arguments(parser)
        typed.append(parser.parse_args(words[4:]))

    monkeypatch.setattr(subprocess, "run", run)
    kinds = ("lora", "dora-rows", "full")
    costs = train(argparse.Namespace(out=tmp_path, kinds=kinds, ckpt_path="runs/gm", more=["--steps", "7"]))
    assert [(a.adapter, a.full, a.steps) for a in typed] == [
        ("lora", False, 7),
        ("dora-rows", False, 7),
        (None, True, 7),
    ]
    assert {a.keep for a in typed} == {str(tmp_path / "keep.jsonl")}
    assert set(costs) == set(kinds)


def test_what_is_kept_is_asked_for_by_captions_of_the_training_alone(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    from general_midi_new_program import KEPT, write_kept_prompts

    write_kept_prompts(tmp_path / "keep.jsonl", folders[0])
    prompts = [json.loads(line)["prompt"] for line in (tmp_path / "keep.jsonl").read_text().splitlines()]
    assert len(prompts) == KEPT
    trained = {file.read_text().strip() for file in (folders[0] / "train").glob("*.txt")}
    assert set(prompts) == trained  # all 24 of this small folder, in turn
    with pytest.raises(SystemExit, match=r"general_midi\.py writes them"):
        write_kept_prompts(tmp_path / "keep.jsonl", tmp_path)


def learned(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A classifier by the function of the script, of one member and fewer steps."""
    import general_midi_new_program as example

    few = functools.partial(learn_panel, seeds=(0,), steps=250)
    monkeypatch.setattr(example, "learn_panel", few)
    return example.learn(folders, RATE)


def test_the_judge_hears_the_new_instrument_and_the_old_ones(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from general_midi_new_program import NewProgramJudge

    judge = NewProgramJudge(*folders, "synth brass", learned(folders, monkeypatch))
    assert {name: len(group.asked) for name, group in judge.groups.items()} == {
        "taught": 1,
        "untaught": 3,
        "old": 4,
    }
    assert judge.groups["taught"].asked[0].caption == "loud synth brass playing D#4"
    played = {name: [r.samples for r in group.asked] for name, group in judge.groups.items()}
    scores = judge.hear("recorded", played)
    assert [scores[name]["instrument"] for name in ("taught", "untaught", "old")] == [1, 1, 1]
    assert [scores[name]["pitch"] for name in ("taught", "untaught", "old")] == [1, 1, 1]
    assert scores["taken"] == 0
    # A model that answers with the new instrument whatever it is asked for.
    brass = {**played, "old": [tone(r.pitch, HARMONICS["synth brass"]) for r in judge.groups["old"].asked]}
    scores = judge.hear("forgetful", brass)
    assert (scores["old"]["instrument"], scores["old"]["pitch"], scores["taken"]) == (0, 1, 4)


def test_models_that_differ_are_told(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import general_midi_new_program as example

    asked: list[list[str]] = []

    def generate(model: float, metadata: list[dict[str, str]], **_: Any) -> Tensor:
        asked.append([values["prompt"] for values in metadata])
        clips = torch.zeros(len(metadata), 1, 4)
        clips[0] += model
        return clips

    monkeypatch.setattr(example, "generate", generate)
    classifier = InstrumentClassifier(instruments=["flute", "synth brass"], sample_rate=RATE)
    judge = example.NewProgramJudge(*folders, "synth brass", classifier)
    assert judge.differing(0.0, 0.0, count=2) == 0
    assert judge.differing(0.0, 1.0, count=2) == 3  # the first of each group
    assert max(map(len, asked)) == 2
    assert [len(clips) for clips in judge.answers(0.0).values()] == [1, 3, 4]


def test_the_table() -> None:
    from general_midi_new_program import table

    def heard(instrument: float, pitches: list[bool]) -> dict[str, Any]:
        clips = [{"pitch": pitch} for pitch in pitches]
        return {"instrument": instrument, "pitch": sum(pitches) / len(pitches), "per_clip": clips}

    scores = {
        "taught": heard(1.0, [True]),
        "untaught": heard(0.75, [True, False, True]),
        "old": heard(0.866, [True]),
    }
    row = {"kind": "lora", "megabytes": 1.1, "differing_when_off": 0, "processor_seconds": 99.6, **scores}
    lines = table([{"kind": "before", **scores}, row]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| before |  |  | 100% | 75% | 75% | 86.6% | 100% |  |"
    assert lines[3] == "| lora | 1.1 MB | 100 s | 100% | 75% | 75% | 86.6% | 100% | bit-equal |"


@pytest.mark.parametrize("words", [["--instrument", "flute"], ["--program", "73"]])
def test_an_instrument_that_the_model_knows_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from general_midi_new_program import parse

    with pytest.raises(SystemExit):
        parse(["--ckpt-path", "runs/gm", *words])
    assert "one that the model was trained on" in capsys.readouterr().err
