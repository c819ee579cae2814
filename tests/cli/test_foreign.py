"""Command lines of stable-audio-tools: taken, or answered in one sentence; and one name per thing in ours."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.cli import COMMANDS, foreign, main, main_as
from stable_audio.cli.train import expanded
from tests.inference import tiny

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from_stable_audio_tools.md").read_text(encoding="utf-8")


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[command]).add_arguments(parser)
    return parser


def flags(command: str) -> dict[str, argparse.Action]:
    return {flag: action for action in parser_of(command)._actions for flag in action.option_strings}


@pytest.mark.parametrize("program", foreign.PROGRAMS)
def test_the_page_has_the_table_and_ours_exist(program: str) -> None:
    known = foreign.PROGRAMS[program]
    (section,) = re.findall(
        rf"^## [^\n]*`{re.escape(program)}`\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE
    )
    rows = re.findall(r"^\| `(--[\w-]+)` \| (.*?) \| (.*?) ?\|$", section, re.MULTILINE)
    told = {None: "none", "": "the argument"}
    assert rows == [(name, told.get(f.ours, f"`{f.ours}`"), f.note) for name, f in known.flags.items()]
    ours = {f.ours.split()[0] for f in known.flags.values() if f.ours and f.ours.startswith("-")}
    assert ours <= set(flags(known.command))
    assert all(f.note for f in known.flags.values() if f.ours is None)
    assert (ROOT / program).is_file()


def test_every_option_of_train_is_taken_by_its_own_name() -> None:
    ours = flags("train")
    for name, meaning in foreign.TRAIN.items():
        assert name in ours
        if meaning.ours is not None:
            assert ours[name] is ours[meaning.ours]


def parsed(*arguments: str) -> argparse.Namespace:
    return parser_of("train").parse_args(expanded(["--dataset-config", "d.json", *arguments]))


def test_train_takes_theirs() -> None:
    args = parsed("--project", "bells", "--num-gpus", "2", "--recover", "true", "--strategy", "")
    assert (args.project, args.devices, args.recover, args.strategy) == ("bells", "2", True, "auto")
    assert parsed("--recover", "false").recover is False
    assert parsed("--recover").recover is True
    assert parsed().recover is False
    with pytest.raises(argparse.ArgumentError, match="true or false, found 'maybe'"):
        parsed("--recover", "maybe")
    with pytest.raises(argparse.ArgumentError, match="name files with --model-config"):
        parsed("--wandb-config", "https://example.org/run")


INI = """[DEFAULTS]
#name of the run
name = stable_audio_tools
batch_size = 8
save_top_k = -1
num_nodes = 1
strategy = ""
precision = "16-mixed"
num_workers = 6
seed = 42
accum_batches = 4
checkpoint_every = 10000
val_every = -1
recover = false
ckpt_path = ''
model_config =
val_dataset_config = ''
gradient_clip_val = 0.5
logger = 'wandb'
"""


def test_an_ini_file_gives_what_the_command_line_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "defaults.ini"
    path.write_text(INI)
    args = parsed("--config-file", str(path), "--batch-size", "2", "--name", "mine")
    assert (args.batch_size, args.name, args.precision, args.accum_batches) == (2, "mine", "16-mixed", 4)
    assert (args.keep, args.val_every, args.strategy, args.recover) == (-1, -1, "auto", False)
    assert (args.gradient_clip_val, args.logger, args.ckpt_path, args.model_config) == (
        0.5,
        "wandb",
        "",
        None,
    )
    path.write_text(INI.replace("recover = false", "recover = true"))
    assert parsed(f"--config-file={path}").recover is True


@pytest.mark.parametrize(
    ("text", "words"),
    [("[DEFAULTS]\nbatchsize = 8\n", "no option is called batchsize"), ("batch_size = 8", "cannot be read")],
)
def test_a_bad_ini_file_is_one_sentence(text: str, words: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "defaults.ini"
    path.write_text(text)
    assert main(["train", "--config-file", str(path), "--dataset-config", "d.json"]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_pre_encode_becomes_encode() -> None:
    theirs = "--model-config m.json --ckpt-path w.ckpt --dataset-config d.json --output-path z --batch-size 4"
    more = "--num-workers 2 --num-nodes 1 --strategy auto --sample-size 1000"
    assert foreign.pre_encode([*theirs.split(), *more.split()]) == [
        *["encode", "d.json", "--model-config", "m.json", "--ckpt-path", "w.ckpt", "--out", "z"],
        *["--batch-size", "4", "--sample-size", "1000", "--num-workers", "2"],
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--model-half", "--dtype float16"),
        ("--is-discrete", "latents are stored"),
        ("--num-nodes 2", "torchrun or srun"),
        ("--strategy ddp", "leave it out"),
        ("--limit-batches 3", "had no effect"),
        ("--shuffle", "leave it out"),
    ],
)
def test_what_pre_encode_has_no_counterpart_for_is_one_sentence(more: str, words: str, capsys: Any) -> None:
    assert main_as("pre_encode.py", ["--dataset-config", "d.json", "--output-path", "z", *more.split()]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_unwrap_model_writes_a_file_with_their_names(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from safetensors import safe_open

    weights, model_file = tiny.save(tmp_path, tiny.config())
    monkeypatch.chdir(tmp_path)
    arguments = ["--model-config", str(model_file), "--ckpt-path", str(weights), "--use-safetensors"]
    assert main_as("unwrap_model.py", arguments) == 0
    with safe_open(tmp_path / "exported_model.safetensors", framework="pt") as file:
        assert any(key.startswith("model.model.") for key in file.keys())  # noqa: SIM118
    assert main_as("unwrap_model.py", [*arguments[:-1], "--name", "mine"]) == 0
    assert (tmp_path / "mine.ckpt").is_file()


def test_run_gradio_starts_the_page() -> None:
    theirs = ["--model-config", "m.json", "--ckpt-path", "w.ckpt", "--model-half", "--title", "Bells"]
    command = foreign.run_gradio([*theirs, "--pretransform-ckpt-path", "vae.ckpt"])
    assert command[0] == "ui"
    args = parser_of("ui").parse_args(command[1:])
    assert (args.checkpoints, args.model_config, args.title) == (["w.ckpt"], "m.json", "Bells")
    assert (args.dtype, args.pretransform_ckpt_path) == ("float16", "vae.ckpt")
    assert foreign.run_gradio(["--pretrained-name", "who/what"]) == ["ui", "who/what"]


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ([], "names the weights; give one"),
        (["--ckpt-path", "w.ckpt", "--pretrained-name", "who/what"], "both name the weights"),
        (["--ckpt-path", "w.ckpt", "--share"], "--share: nothing is sent through machines of others"),
        (["--ckpt-path", "w.ckpt", "--username", "me"], "--token-file"),
    ],
)
def test_run_gradio_says_what_it_cannot_do(theirs: list[str], told: str, capsys: Any) -> None:
    assert main_as("run_gradio.py", theirs) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1


def test_run_gradio_names_the_commands_for_autoencoders(tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "m.json"
    config.write_text('{"model_type": "autoencoder"}')
    assert main_as("run_gradio.py", ["--model-config", str(config), "--ckpt-path", "w.ckpt"]) == 2
    message = capsys.readouterr().err
    assert "--prompt" not in message
    for name in ("reconstruct", "encode", "decode"):
        command = re.findall(rf"`stable-audio {name} (.*?)`", message)[0].split()
        args = parser_of(name).parse_args(command)
        assert (args.ckpt_path, args.model_config) == ("w.ckpt", str(config))


def test_run_gradio_reads_the_config_inside_a_checkpoint(tmp_path: Path, capsys: Any) -> None:
    weights = tmp_path / "w.ckpt"
    torch.save({"state_dict": {}, "model_config": {"model_type": "autoencoder"}}, weights)
    assert main_as("run_gradio.py", ["--ckpt-path", str(weights)]) == 2
    assert f"`stable-audio reconstruct SOUNDS --out FOLDER --ckpt-path {weights}`" in capsys.readouterr().err


EARLIER = {
    "--output-path": "--out",
    "--online": "--no-ema",
    "--no-ema-weights": "--no-ema",
    "--half": "--dtype",
}


def test_one_name_per_thing_over_all_commands() -> None:
    for command in COMMANDS:
        ours = flags(command)
        for earlier, name in EARLIER.items():
            assert earlier not in ours or name in ours, f"{command} {earlier}"
        if "--device" in ours:
            assert ours["--device"].default == "auto", command
        if "--dtype" in ours:
            assert "float32" in ours["--dtype"].choices, command
        assert {"--output", "--folder", "--output-dir", "--gpu"}.isdisjoint(ours), command
    assert all(
        "--out" in flags(c) for c in ("encode", "decode", "generate", "reconstruct", "bakeoff", "configs")
    )
    assert all("--no-ema" in flags(command) for command in ("generate", "export", "train"))


def test_earlier_names_still_mean_the_same() -> None:
    encode = ["sounds", "--output-path", "z", "--half"]
    args = parser_of("encode").parse_args(encode)
    assert (args.out, args.dtype) == ("z", "float16")
    assert parser_of("export").parse_args(["a", "b", "--online"]).no_ema
    assert not parsed("--no-ema-weights").use_ema_weights
    assert not parsed("--no-ema").use_ema_weights
    assert parser_of("bakeoff").parse_args(["a.json", "--save-dir", "x"]).out == "x"


def test_the_project_reaches_the_logger(tmp_path: Path) -> None:
    from stable_audio.training.record.loggers.base import RunLogger

    assert RunLogger(folder=tmp_path, name="run").project == "run"
    assert RunLogger(folder=tmp_path, name="run", project="bells").project == "bells"
