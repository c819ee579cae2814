"""The tables of flags are those of the parsers: same names, same defaults, same choices."""

from __future__ import annotations

import re

import pytest

from stable_audio.cli import COMMANDS, main
from tests.docs.tables import ROOT, actions, called, code, command_lines, default, page, section, table

PAGES = {"train": ("training", "Flags"), "generate": ("inference", "Flags")}
"""Command -> page and heading of its table; all others have one in commands.md."""


def rows(command: str) -> list[list[str]]:
    name, heading = PAGES.get(command, ("commands", command))
    return table(name, heading, first="")


@pytest.mark.parametrize("command", command_lines())
def test_every_flag_has_a_row_and_every_row_is_a_flag(command: str) -> None:
    assert [code(row[0]) for row in rows(command)] == [called(a) for a in actions(command)]


@pytest.mark.parametrize("command", command_lines())
def test_defaults_are_those_of_the_parser(command: str) -> None:
    told = {row[0]: row[1] for row in rows(command)}
    assert told == {", ".join(f"`{n}`" for n in called(a)): default(a) for a in actions(command)}


@pytest.mark.parametrize("command", command_lines())
def test_choices_are_named(command: str) -> None:
    for row, action in zip(rows(command), actions(command), strict=True):
        assert not action.choices or {c for c in action.choices if c} <= set(code(row[2])), row


@pytest.mark.parametrize("command", command_lines())
def test_every_row_says_something(command: str) -> None:
    assert all(row[2] for row in rows(command))


@pytest.mark.parametrize("command", command_lines())
def test_every_argument_has_help(command: str) -> None:
    assert all(action.help for action in actions(command))


@pytest.mark.parametrize("command", command_lines())
def test_help_on_a_checkpoint_says_that_it_may_be_in_parts(command: str) -> None:
    named = [a for a in actions(command) if {*called(a)} & {"--ckpt-path", "--pretrained-ckpt-path"}]
    named += [a for a in actions(command) if a.metavar in ("CHECKPOINT", "CKPT")]
    assert [called(a) for a in named if "step=N.shards" not in a.help] == []


OF_OTHER_PROGRAMS = (
    "adding_a_component",
    "compatibility",
    "from_stable_audio_tools",
    "performance",
    "pretransforms",
    "sampler_accuracy",
)
"""Pages that name the flags of tests, of stable-audio-tools and of benchmarks."""

PROSE = sorted({path.stem for path in ROOT.glob("docs/*.md")} - set(OF_OTHER_PROGRAMS))


@pytest.mark.parametrize("name", PROSE)
def test_flags_named_in_the_text_exist(name: str) -> None:
    known = {n for command in command_lines() for action in actions(command) for n in called(action)}
    known |= {"--traceback", "--help"}
    of_others = {"--nodes", "--ntasks-per-node", "--gpus-per-node", "--gpus-per-task", "--pty", "--array"}
    of_others |= {
        "--nnodes",
        "--nproc-per-node",
        "--rdzv-backend",
        "--rdzv-endpoint",
        "--signal",
        "--cpus-per-task",
        "--het-group",
    }
    of_others |= {"--open-mode", "--from-pretrained", "--no-python", "--max-restarts", "--local-dir"}
    of_others |= {"--kills", "--only", "--cuda"}  # scripts/soak.py, benchmarks
    text = re.sub(r"(benchmarks|examples)/[^`]*?(?=`|\n\n)", "", page(name))
    used = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    assert used <= known | of_others


def test_every_exit_status_is_told() -> None:
    from stable_audio.training.processes.stopping import Interrupted

    told = {int(row[0]) for row in table("commands", "Exit status")}
    assert told == {0, 1, 2, Interrupted().exit_status, 143, 138}


def test_statuses_are_as_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nothere.json", "--dry"]) == 1
    assert main(["data-report", "nothere.json"]) == 2
    assert main(["adapter", "info", "nothere.safetensors"]) == 2
    assert main(["train", "--dataset-config", "synthetic"]) == 2
    capsys.readouterr()


def test_the_index_of_commands_is_whole() -> None:
    headings = re.findall(r"^## (.*)$", page("commands"), re.MULTILINE)
    assert sorted(headings) == sorted({*COMMANDS, "Exit status", "From Python"} - set(PAGES))
    links = set(re.findall(r"\((\w+)\.md#flags\)", section("commands", "Commands")))
    assert links == {name for name, _ in PAGES.values()}
