"""What the README tells people to type exists: make targets, commands, flags, files and links."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from stable_audio.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
THIN = {"train.py": "train", "infer.py": "generate"}


def fenced(page: Path) -> Iterator[str]:
    """Command lines of the shell blocks of a page, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            yield from (part.strip() for part in line.split("#")[0].split("&&") if part.strip())


def commands() -> list[tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), line) for page in PAGES for line in fenced(page)]


def words(line: str) -> list[str]:
    """The arguments after `stable-audio`, or [] when the line is another program's."""
    split = shlex.split(line.removeprefix("$ "))
    if split[:1] == ["python"] and len(split) > 1:
        if split[1] in THIN:
            return [THIN[split[1]], *split[2:]]
        if split[1:3] == ["-m", "stable_audio"]:
            return split[3:]
    return split[1:] if split[:1] == ["stable-audio"] else []


@pytest.mark.parametrize(("page", "line"), [c for c in commands() if words(c[1])])
def test_commands_parse(page: str, line: str) -> None:
    name, *arguments = words(line)
    if name.startswith("-"):
        assert name in ("--help", "--version")
        return
    assert name in COMMANDS, f"{page}: no command '{name}'"
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[name]).add_arguments(parser)
    if not {"--help", "-h"} & set(arguments) and "..." not in arguments:
        parser.parse_args(arguments)


@pytest.mark.parametrize(("page", "line"), [c for c in commands() if c[1].startswith("make ")])
def test_make_targets_exist(page: str, line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (w for w in shlex.split(line)[1:] if "=" not in w):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{page}: no target '{target}'"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [t for t in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in t]
    missing = [t for t in links if not (page.parent / t).exists()]
    named = re.findall(
        r"(?:model_configs|dataset_configs|examples|scripts|benchmarks)/[\w./-]+\.(?:jsonl|json|py)\b", text
    )
    missing += [n for n in named if not (ROOT / n).exists()]
    assert not missing, f"{page.name} names {missing}"


def test_the_tree_of_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.split("## Source tree")[1].split("```")[1]
    for name in re.findall(r"^  (\w+/)", tree, re.MULTILINE):
        assert (ROOT / "stable_audio" / name).is_dir(), name
    folders = {p.name for p in (ROOT / "stable_audio").iterdir() if (p / "__init__.py").exists()}
    listed = {n.rstrip("/") for n in re.findall(r"^  (\w+/)", tree, re.MULTILINE)}
    assert folders == listed
