"""The command lines of stable-audio-tools, and the option of ours that replaces each of theirs."""

from __future__ import annotations

import argparse
import configparser
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """An option of stable-audio-tools.

    Attributes:
        ours: our option that takes its value; "" = the positional argument; None = there is none.
        note: what differs; if there is no such option, what to do instead.
        switch: the option takes no value.
        neutral: values that change nothing here, and are therefore accepted.
    """

    ours: str | None
    note: str = ""
    switch: bool = False
    neutral: tuple[str, ...] = ()


TRAIN: dict[str, Flag] = {
    "--name": Flag("--name", "is used, and names the folder of the run as well"),
    "--project": Flag("--project", "the project at Weights & Biases; default: the name of the run"),
    "--config-file": Flag("--config-file", "an ini file, such as their defaults.ini"),
    "--model-config": Flag("--model-config", "a name of `stable-audio configs` works, too"),
    "--dataset-config": Flag("--dataset-config"),
    "--val-dataset-config": Flag("--val-dataset-config"),
    "--save-dir": Flag("--save-dir", "default: runs"),
    "--batch-size": Flag("--batch-size"),
    "--num-gpus": Flag("--devices"),
    "--num-nodes": Flag("--num-nodes", "default: what the launcher says"),
    "--num-workers": Flag("--num-workers"),
    "--strategy": Flag("--strategy", "an empty one is `auto`"),
    "--precision": Flag("--precision", "default: auto, not 16-mixed"),
    "--seed": Flag("--seed"),
    "--accum-batches": Flag("--accum-batches"),
    "--gradient-clip-val": Flag("--gradient-clip-val"),
    "--checkpoint-every": Flag("--checkpoint-every"),
    "--save-top-k": Flag("--keep", "counts the newest checkpoints; had no effect there"),
    "--val-every": Flag("--val-every", "-1: as --checkpoint-every"),
    "--recover": Flag("--recover", "`--recover true` works; had no effect there"),
    "--ckpt-path": Flag("--ckpt-path"),
    "--pretrained-ckpt-path": Flag("--pretrained-ckpt-path", "must fit; `--partial` loads what fits"),
    "--pretransform-ckpt-path": Flag("--pretransform-ckpt-path"),
    "--remove-pretransform-weight-norm": Flag("--remove-pretransform-weight-norm"),
    "--logger": Flag("--logger", "csv, tensorboard, wandb; comet is not built"),
    "--wandb-config": Flag(None, "no run's settings are fetched; name files with --model-config"),
}
"""Options of train.py; those of its ini file are the same without dashes."""

PRE_ENCODE: dict[str, Flag] = {
    "--model-config": Flag("--model-config"),
    "--ckpt-path": Flag("--ckpt-path"),
    "--dataset-config": Flag(""),
    "--output-path": Flag("--out"),
    "--batch-size": Flag("--batch-size"),
    "--sample-size": Flag("--sample-size", "left out, files are encoded whole"),
    "--num-workers": Flag("--num-workers"),
    "--model-half": Flag(
        None, "the autoencoder computes in float32; `--dtype float16` of encode halves what is stored", True
    ),
    "--is-discrete": Flag(None, "latents are stored, not tokens; leave it out", True),
    "--num-nodes": Flag(None, "start the command on every node with torchrun or srun", neutral=("1",)),
    "--strategy": Flag(None, "each process works by itself; leave it out", neutral=("auto", "")),
    "--limit-batches": Flag(
        None, "had no effect there; Ctrl-C stops a run, and the same command continues it", neutral=("",)
    ),
    "--shuffle": Flag(None, "the order of the files does not change what is written; leave it out", True),
}
"""Options of pre_encode.py."""

UNWRAP: dict[str, Flag] = {
    "--model-config": Flag("--model-config", "not needed where the checkpoint has it inside"),
    "--ckpt-path": Flag(""),
    "--name": Flag("OUTPUT", "the file to write, without its suffix; default: exported_model"),
    "--use-safetensors": Flag("OUTPUT", "a name that ends in .safetensors", True),
}
"""Options of unwrap_model.py."""

_TOKEN_FILE = "the page asks for a token: write one into a file for `stable-audio ui --token-file`"

GRADIO: dict[str, Flag] = {
    "--pretrained-name": Flag("", "the same name; it is fetched from the hub"),
    "--model-config": Flag("--model-config"),
    "--ckpt-path": Flag(""),
    "--pretransform-ckpt-path": Flag("--pretransform-ckpt-path"),
    "--model-half": Flag("--dtype float16", "only where asked for", True),
    "--share": Flag(
        None,
        "nothing is sent through machines of others; `stable-audio ui --host` listens on a network",
        True,
    ),
    "--username": Flag(None, _TOKEN_FILE),
    "--password": Flag(None, _TOKEN_FILE),
    "--title": Flag("--title"),
}
"""Options of run_gradio.py."""


@dataclass(frozen=True)
class Program:
    """A script of stable-audio-tools.

    Attributes:
        command: our subcommand that replaces it.
        flags: its options.
        required: those of its options that must be given.
    """

    command: str
    flags: Mapping[str, Flag]
    required: tuple[str, ...] = ()


PROGRAMS: dict[str, Program] = {
    "train.py": Program("train", TRAIN),
    "pre_encode.py": Program("encode", PRE_ENCODE, ("--dataset-config", "--output-path")),
    "unwrap_model.py": Program("export", UNWRAP, ("--ckpt-path",)),
    "run_gradio.py": Program("ui", GRADIO),
}


class ForeignError(ValueError):
    """An option without a counterpart here; the message says what to do instead."""


def pre_encode(argv: Sequence[str]) -> list[str]:
    """Translate arguments of pre_encode.py into those of `stable-audio`."""
    return ["encode", *_translated("pre_encode.py", argv)]


def unwrap_model(argv: Sequence[str]) -> list[str]:
    """Translate arguments of unwrap_model.py into those of `stable-audio`; the file keeps their key names."""
    args = _parsed("unwrap_model.py", argv)
    suffix = "safetensors" if args["--use-safetensors"] else "ckpt"
    config = ["--model-config", args["--model-config"]] if args["--model-config"] else []
    output = f"{args['--name'] or 'exported_model'}.{suffix}"
    return ["export", args["--ckpt-path"], output, "--layout", "sat", *config]


def run_gradio(argv: Sequence[str]) -> list[str]:
    """Translate arguments of run_gradio.py into those of `stable-audio`.

    Raises:
        ForeignError: an option without a counterpart, no weights, or those of an autoencoder, for which there
            is no page; with the commands that do the same.
    """
    args = _parsed("run_gradio.py", argv)
    from stable_audio.stored.models import stored_model_type

    weights = args["--ckpt-path"] or args["--pretrained-name"]
    if "autoencoder" in stored_model_type(args["--model-config"], weights):
        raise ForeignError(_for_autoencoders(weights, args["--model-config"]))
    if not weights:
        raise ForeignError("run_gradio.py: --ckpt-path or --pretrained-name names the weights; give one")
    if args["--ckpt-path"] and args["--pretrained-name"]:
        raise ForeignError("run_gradio.py: --ckpt-path and --pretrained-name both name the weights; give one")
    return ["ui", *_translated("run_gradio.py", argv)]


def _for_autoencoders(weights: str, model_config: str) -> str:
    options = ["--ckpt-path", weights or "CHECKPOINT"]
    options += ["--model-config", model_config] if model_config else []
    text = shlex.join(options)
    return (
        f"there is no page for autoencoders; `stable-audio reconstruct SOUNDS --out FOLDER {text}` writes a "
        f"reconstruction of every file, `stable-audio encode SOUNDS --out LATENTS {text}` latents, "
        f"and `stable-audio decode LATENTS --out FOLDER {text}` sounds from latents"
    )


def ini_arguments(path: str) -> list[str]:
    """Options of `train` from an ini file as stable-audio-tools has it: `batch_size = 8`, in any section.

    Keys with an empty value or `false` are skipped.

    Raises:
        ValueError: the file cannot be read, or a key is no option.
    """
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ValueError(f"--config-file {path}: cannot be read ({' '.join(str(error).split())})") from error
    values = {key: value for section in parser.sections() for key, value in parser[section].items()}
    flags = {key: f"--{key.replace('_', '-')}" for key in values}
    unknown = [key for key, flag in flags.items() if flag not in TRAIN and flag != "--max-steps"]
    if unknown:
        raise ValueError(f"--config-file {path}: no option is called {', '.join(unknown)}; see train --help")
    arguments: list[str] = []
    for key, value in values.items():
        text = value.strip().strip("'\"")
        if text.lower() not in ("", "none", "false"):
            arguments += [flags[key]] if text.lower() == "true" else [f"{flags[key]}={text}"]
    return arguments


def boolean(text: str) -> bool:
    """A converter for argparse: `true`, `false` and the like, for switches that may take a value."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"true or false, found '{text}'")
    return values[text.lower()]


def no_counterpart(flag: str) -> str:
    """The message for an option of train.py that has no counterpart here."""
    return f"{flag} of stable-audio-tools: {TRAIN[flag].note}"


def _parsed(program: str, argv: Sequence[str]) -> dict[str, str]:
    """Option -> value; "true" for a switch that is present."""
    script = PROGRAMS[program]
    lines = "\n".join(f"  {flag:<26} {_meaning(flag, f)}" for flag, f in script.flags.items())
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"As in stable-audio-tools; runs `stable-audio {script.command}`.",
        epilog=f"options, and what replaces them:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"{program} [options]",
        allow_abbrev=False,
    )
    for flag, meaning in script.flags.items():
        options = {"action": "store_const", "const": "true"} if meaning.switch else {}
        required = {"required": True} if flag in script.required else {}
        parser.add_argument(flag, dest=flag, default="", help=argparse.SUPPRESS, **options, **required)  # type: ignore[arg-type]
    return vars(parser.parse_args(list(argv)))


def _meaning(flag: str, meaning: Flag) -> str:
    ours = {None: "not supported", "": "the argument of the command"}.get(meaning.ours, meaning.ours)
    return f"{ours}: {meaning.note}" if meaning.note else str(ours)


def _translated(program: str, argv: Sequence[str]) -> list[str]:
    args = _parsed(program, argv)
    options: list[str] = []
    positional: list[str] = []
    for flag, meaning in PROGRAMS[program].flags.items():
        value = args[flag]
        if value == "" or value in meaning.neutral:
            continue
        if meaning.ours is None:
            raise ForeignError(f"{program} {flag}: {meaning.note}")
        if meaning.ours == "":
            positional.append(value)
        else:
            options += meaning.ours.split() if meaning.switch else [meaning.ours, value]
    return [*positional, *options]
