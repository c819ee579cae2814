"""The tables of the pages in docs/, and what the parsers say that stands in them."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path
from typing import Any

from stable_audio.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    """The text of docs/NAME.md; README is the README."""
    path = ROOT / ("README.md" if name == "README" else f"docs/{name}.md")
    return path.read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """What stands under a heading of a page, down to the next heading of its level or above."""
    lines = page(name).splitlines()
    (start,) = [n for n, line in enumerate(lines) if re.fullmatch(rf"#+ {re.escape(heading)}", line)]
    level = lines[start].split()[0].count("#")
    fenced = False
    for end in range(start + 1, len(lines)):
        fenced ^= lines[end].startswith("```")
        if not fenced and re.match(rf"#{{1,{level}}} ", lines[end]):
            return "\n".join(lines[start + 1 : end])
    return "\n".join(lines[start + 1 :])


def tables(text: str) -> list[list[list[str]]]:
    """Every table of a text: rows of cells, the header first, without the line below it."""
    found: list[list[list[str]]] = []
    previous = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not previous.startswith("|"):
                found.append([])
            cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                found[-1].append(cells)
        previous = line
    return found


def table(name: str, heading: str, first: str | None = None) -> list[list[str]]:
    """The rows of the first table under a heading, or of the first whose first header is `first`."""
    found = [t for t in tables(section(name, heading)) if first is None or t[0][0] == first]
    assert found, f"docs/{name}.md, {heading}: no such table"
    return found[0][1:]


def code(text: str) -> list[str]:
    """What stands between backticks, outside of blocks of code."""
    return re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def names(rows: list[list[str]], column: int = 0) -> list[str]:
    """All names of a column of a table."""
    return [name for row in rows for name in code(row[column])]


def command_lines() -> list[str]:
    """Every command, those with actions once for each action: "adapter info"."""
    return [line for name in COMMANDS for line in ([f"{name} {a}" for a in _choices(name)] or [name])]


def actions(command: str) -> list[argparse.Action]:
    """The arguments of a command, or of one of its actions, without those that all have or that are not
    shown."""
    name, _, action = command.partition(" ")
    parser = _choices(name)[action] if action else _parser(name)
    all_have = (argparse._HelpAction,)
    return [a for a in parser._actions if a.help != argparse.SUPPRESS and not isinstance(a, all_have)]


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(COMMANDS[command]).add_arguments(parser)
    return parser


def _choices(command: str) -> dict[str, argparse.ArgumentParser]:
    """The actions of a command with their parsers."""
    nested = [a for a in _parser(command)._actions if isinstance(a, argparse._SubParsersAction)]
    return {name: parser for a in nested for name, parser in a.choices.items()}


def called(action: argparse.Action) -> list[str]:
    """All names of an argument."""
    return action.option_strings or [str(action.metavar or action.dest)]


def default(action: argparse.Action) -> str:
    """The default of an argument, as the tables give it: the parser's value, or where that stands for a rule,
    the words of its help."""
    if not action.option_strings and action.nargs != "*":
        return "" if action.nargs == "?" else "required"
    if action.required and action.nargs != "*":  # argparse calls those required, too
        return "required"
    text = help_of(action)
    told = re.search(r"default: (.*?)(?:$|[;)])", text)
    if told:
        return told[1]
    if isinstance(action.default, bool) or action.default in (None, ""):
        told = re.search(r"\(([^()]+)\)$", text)
        return told[1] if told else ""
    return plain(action.default)


def help_of(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", plain(action.default))


def plain(value: Any) -> str:
    """5.0 -> "5"."""
    return f"{value:g}" if isinstance(value, float) else str(value)
