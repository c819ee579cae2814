"""Defaults of flags are those of what the flags set, and the help says them."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from typing import Any

import pytest

from stable_audio.checkpoints import export
from stable_audio.cli import COMMANDS, bakeoff, check, evaluate_quickstart, train
from stable_audio.cli.codec_options import chunking
from stable_audio.cli.fields import add_field, fields_from
from stable_audio.data.inspection import inspect_dataset
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.evaluation.bakeoff import compete
from stable_audio.evaluation.quickstart_requests import Requests
from stable_audio.evaluation.reconstruction import reconstruct
from stable_audio.factory.dataset_report import DEFAULT_CLIPS
from stable_audio.inference.codec.decode import decode_folder
from stable_audio.inference.codec.latents import EncodeOptions
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.rendering.render import OutputFiles
from stable_audio.inference.rendering.steering import INIT_NOISE_LEVEL
from stable_audio.options import keywords_of
from stable_audio.training.options import RunOptions
from tests.docs.tables import actions, plain


@dataclasses.dataclass(frozen=True)
class Options:
    max_steps: int = 7
    rate: float | None = None
    name: str = "run"
    demos: bool = True
    partial: bool = False
    workers: int = dataclasses.field(default_factory=lambda: 3)


def options_of(*argv: str) -> Options:
    parser = argparse.ArgumentParser()
    for field in dataclasses.fields(Options):
        add_field(parser, Options, field.name)
    return Options(**fields_from(parser.parse_args(argv), Options))


def test_flags_have_the_defaults_and_types_of_their_fields() -> None:
    assert options_of() == Options()
    flags = ["--max-steps", "3", "--rate", "0.5", "--name", "5", "--no-demos", "--partial", "--workers", "0"]
    assert options_of(*flags) == Options(3, 0.5, "5", False, True, 0)


def parsed(command: Any, *argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(argv)


def test_a_run_without_flags_has_the_defaults_of_its_options() -> None:
    args = parsed(train, "--dataset-config", "d.json")
    assert RunOptions.from_section(None, **fields_from(args, RunOptions)) == RunOptions()
    assert {f.name for f in dataclasses.fields(RunOptions)} <= set(vars(args))


def test_other_commands_take_the_defaults_of_a_run() -> None:
    assert parsed(check, "m.json").batch_size == RunOptions.batch_size
    assert parsed(bakeoff, "m.json").seed == RunOptions.seed
    quick = parsed(evaluate_quickstart, "--ckpt-path", "x")
    assert Requests(**fields_from(quick, Requests)) == Requests()


TOLD = [
    ("encode", "--batch-size", EncodeOptions, "batch_size"),
    ("encode", "--items-per-shard", EncodeOptions, "items_per_shard"),
    ("encode", "--seed", EncodeOptions, "seed"),
    ("encode", "--chunk-above", EncodeOptions, "chunk_above"),
    ("decode", "--chunk-above", decode_folder, "chunk_above"),
    ("decode", "--format", decode_folder, "suffix"),
    ("reconstruct", "--chunk-above", reconstruct, "chunk_above"),
    ("data-report", "--num-workers", inspect_dataset, "num_threads"),
    ("generate", "--format", OutputFiles, "format"),
]
"""(command, flag, what it sets, the argument there) of flags that pass nothing on unless they are given."""


@pytest.mark.parametrize(("command", "flag", "target", "name"), TOLD)
def test_the_help_says_the_default_of_what_a_flag_sets(
    command: str, flag: str, target: Any, name: str
) -> None:
    check_told(command, flag, plain(keywords_of(target)[name].default))


@pytest.mark.parametrize(
    "name", ["sigma_min", "sigma_max", "rho", "cfg_interval", "cfg_norm_threshold", "headroom_seconds"]
)
def test_the_help_says_what_sampling_does_unless_a_model_says_otherwise(name: str) -> None:
    value = getattr(Sampling().resolved(OBJECTIVES["v"]()), name)
    words = " ".join(map(plain, value)) if isinstance(value, tuple) else plain(value)
    check_told("generate", f"--{name.replace('_', '-')}", words)


def test_the_help_says_the_noise_of_initial_audio() -> None:
    check_told("generate", "--init-noise-level", plain(INIT_NOISE_LEVEL))


@pytest.mark.parametrize("name", DEFAULT_CLIPS)
def test_the_help_says_the_clips_of_a_report_without_a_model(name: str) -> None:
    flag = f"--{name.replace('audio_', '').replace('_', '-')}"
    check_told("data-report", flag, plain(DEFAULT_CLIPS[name]))


def check_told(command: str, flag: str, words: str) -> None:
    (action,) = [a for a in actions(command) if flag in a.option_strings]
    assert action.default is None
    assert f"({words})" in (action.help or "") or f"({words};" in (action.help or "")


def test_chunks_are_of_the_library_unless_a_flag_says_so() -> None:
    decode = importlib.import_module(COMMANDS["decode"])
    for flags, keywords in (((), {}), (("0",), {"chunk_above": None}), (("9",), {"chunk_above": 9})):
        argv = ["z", "--out", "o", *(["--chunk-above", *flags] if flags else [])]
        assert chunking(parsed(decode, *argv)) == keywords


def test_defaults_that_stand_in_a_parser_are_those_of_the_library() -> None:
    written = parsed(importlib.import_module(COMMANDS["export"]), "a.ckpt", "b.ckpt")
    assert {n: getattr(written, n) for n in ("layout", "part")} == {
        n: keywords_of(export)[n].default for n in ("layout", "part")
    }
    assert parsed(bakeoff, "m.json").repeats == keywords_of(compete)["repeats"].default
