"""The `stable-audio` command: one module per subcommand, imported when that subcommand runs.

A command module has `HELP` (one line), `add_arguments(parser)` and `run(args) -> int` (exit status). It
imports torch and the rest of the package inside `run`, so that `--help` answers at once. Commands that act on
signals themselves (`TAKES_SIGNALS`) have `run(args, *, stop)`, with what has come before.

`SPLITS_WORK = True` marks a command whose work is split over the processes of a launcher (torchrun, srun);
the others refuse to run under a launcher, where each process would repeat the work.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, TextIO

from stable_audio.audio.errors import disk_is_full
from stable_audio.characters import fault, readable_json
from stable_audio.cli.denied import plain_reason, unwritable_folder
from stable_audio.cli.home import with_home

if TYPE_CHECKING:
    from stable_audio.training.processes.stopping import StopRequest

COMMANDS: dict[str, str] = {
    "adapter": "stable_audio.cli.adapter",
    "bakeoff": "stable_audio.cli.bakeoff",
    "check": "stable_audio.cli.check",
    "configs": "stable_audio.cli.configs",
    "data-report": "stable_audio.cli.data_report",
    "decode": "stable_audio.cli.decode",
    "encode": "stable_audio.cli.encode",
    "evaluate-quickstart": "stable_audio.cli.evaluate_quickstart",
    "export": "stable_audio.cli.export",
    "finetune": "stable_audio.cli.finetune",
    "generate": "stable_audio.cli.generate",
    "plan": "stable_audio.cli.plan",
    "reconstruct": "stable_audio.cli.reconstruct",
    "schema": "stable_audio.cli.schema",
    "serve": "stable_audio.cli.serve",
    "train": "stable_audio.cli.train",
    "ui": "stable_audio.cli.ui",
    "watch": "stable_audio.cli.watch",
}
"""Subcommand -> module."""

TAKES_SIGNALS = ("finetune", "train")
"""Commands that act on signals themselves: what comes before they can is noted. Their `run` takes `stop`."""

EXPECTED_ERRORS = (ValueError, OSError, ImportError)
"""What bad files, bad values and missing extras raise; everything else is a defect and shows a traceback."""

EXTRA_OF_PACKAGE = {"lightning": "train"}
"""Packages that whole commands need, and the extra that brings them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit status.

    0: done. 1: the command found problems. 2: it could not run (message on stderr).
    130: Ctrl-C. 143: SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        return _overview(words)
    if words[0] not in TAKES_SIGNALS:
        return _command(words, None)
    # Before anything else, so that no signal is lost while torch and Lightning are being imported.
    from stable_audio.training.processes.stopping import StopRequest

    stop = StopRequest(save_ends=None).install()
    try:
        return _command(words, stop)
    finally:
        stop.restore()


def _command(words: list[str], stop: StopRequest | None) -> int:
    """Run the subcommand that is the first of `words`, with the others as its arguments."""
    module = _module(words[0])
    parser = argparse.ArgumentParser(prog=f"stable-audio {words[0]}", description=module.HELP)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    module.add_arguments(parser)
    arguments = words[1:]
    if hasattr(module, "expanded"):
        try:
            arguments = module.expanded(arguments)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return _run(module, parser.parse_args(with_home(arguments)), stop)


def main_as(program: str, argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that replaces a script of stable-audio-tools; returns its exit status.

    Args:
        program: name of the script, such as "pre_encode.py".
        argv: arguments of the script; default: those of the process.
    """
    from stable_audio.cli import foreign

    translate = {
        "pre_encode.py": foreign.pre_encode,
        "unwrap_model.py": foreign.unwrap_model,
        "run_gradio.py": foreign.run_gradio,
    }[program]
    try:
        return main(translate(list(sys.argv[1:] if argv is None else argv)))
    except foreign.ForeignError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _overview(words: list[str]) -> int:
    """`stable-audio --help`, `--version`, or an unknown command; returns the exit status."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {_module(name).HELP}" for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="stable-audio",
        description="Train and run audio diffusion models described by one JSON file.",
        epilog=f"commands:\n{listing}\n\n`stable-audio COMMAND --help` describes one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="stable-audio COMMAND [options]",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("command", nargs="?", choices=list(COMMANDS), metavar="COMMAND", help="see below")
    args = parser.parse_args(words)
    if args.version:
        from stable_audio import __version__

        print(__version__)
        return 0
    parser.print_help()
    return 0 if words else 2


def _module(name: str) -> ModuleType:
    return importlib.import_module(COMMANDS[name])


def _run(module: ModuleType, args: argparse.Namespace, stop: StopRequest | None) -> int:
    interrupts = stop is None
    return guarded(
        lambda: _alone_or_shared(module, args, stop), traceback=args.traceback, interrupts=interrupts
    )


def _alone_or_shared(module: ModuleType, args: argparse.Namespace, stop: StopRequest | None) -> int:
    if not getattr(module, "SPLITS_WORK", False) and _started_by_launcher():
        from stable_audio.data.world import WorldError, launched_world

        if (world := launched_world()).size > 1 and world.certain:
            raise WorldError(
                f"{world}, but this command runs in one process; start it once, without a launcher"
            )
    result: int = module.run(args) if stop is None else module.run(args, stop=stop)
    return result


def _started_by_launcher() -> bool:
    """Whether the environment has variables of a launcher; a first check that needs no import."""
    return bool(
        {"RANK", "WORLD_SIZE", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "MPI_RANKID", "PMI_RANK"}
        & os.environ.keys()
    )


def guarded(run: Callable[[], int], *, traceback: bool, interrupts: bool = True) -> int:
    """Call `run` and return its exit status; after an error, print the reason and return that of the error.

    Args:
        run: the work; returns an exit status.
        traceback: raise errors instead of printing their reasons.
        interrupts: SIGTERM interrupts `run`; False where that is handled already.
    """
    for stream in (sys.stdout, sys.stderr):
        _escape_halves(stream)
    _show_crashes()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    from stable_audio.training.processes.stopping import Interrupted, sigterm_interrupts

    try:
        with sigterm_interrupts() if interrupts else nullcontext():
            return run()
    except KeyboardInterrupt as stop:
        interrupted = stop if isinstance(stop, Interrupted) else Interrupted()
        print("interrupted", file=sys.stderr)
        return interrupted.exit_status
    except (*EXPECTED_ERRORS, MemoryError, _out_of_memory()) as error:
        if traceback:
            raise
        print(f"error: {_reason(error)}", file=sys.stderr)
        return 2


def _show_crashes() -> None:
    """Let a crash of a library (SIGSEGV, SIGABRT) print where every thread was, which is lost without it."""
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)


def _escape_halves(stream: TextIO) -> None:
    """Print names of files that are not UTF-8 with escapes, as stderr usually does, instead of failing."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


def _out_of_memory() -> type[Exception]:
    """torch's exception for a full GPU; imported only when something was raised."""
    from torch import OutOfMemoryError

    return OutOfMemoryError


def _reason(error: Exception) -> str:
    if isinstance(error, (MemoryError, _out_of_memory())) and not isinstance(error, ValueError):
        first = (str(error).splitlines() or [""])[0] or "there is none left."
        return f"out of memory: {first} A smaller --batch-size helps; see docs/troubleshooting.md"
    if isinstance(error, OSError) and (folder := unwritable_folder(error)) is not None:
        return (
            f"{folder}: cannot be written to ({error.strerror}); choose another folder to write to, or make "
            "this one writable"
        )
    if isinstance(error, OSError) and disk_is_full(error):
        place = f"{error.filename}: " if error.filename else ""
        todo = "make room, or choose another folder; what is finished stays"
        return f"{place}the disk is full ({error.strerror}); {todo}"
    if isinstance(error, OSError) and (plain := plain_reason(error)) is not None:
        return plain
    if isinstance(error, UnicodeEncodeError) and (half := fault(error.object)) is not None:
        return f"{readable_json(error.object)} has {half}, and cannot be written; give it another name"
    package = (getattr(error, "name", None) or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in EXTRA_OF_PACKAGE:
        return f'this command needs {package}: pip install "stable-audio[{EXTRA_OF_PACKAGE[package]}]"'
    return str(error)
