"""The examples of docs/adding_a_component.md, put into a copy of the repository and run there.

As a script, `examples.py FOLDER` runs them in FOLDER and writes what failed of each to `failures.json`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding_a_component.md"
_FILE = re.compile(r"# (\S+/\S+\.py)\n")
_EDIT = re.compile(r"--- (\S+)\n")


@dataclass
class Example:
    """One section of the page.

    Attributes:
        files: path -> content of new files.
        edits: (path, lines to add among lines that are there), in order.
        scripts: code to run.
        tests: arguments of pytest, one list per line.
    """

    files: dict[str, str] = field(default_factory=dict)
    edits: list[tuple[str, str]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    tests: list[list[str]] = field(default_factory=list)


def examples(text: str) -> dict[str, Example]:
    """The sections `## Example: NAME` of a page, by name."""
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    headed = (section.split("\n", 1) for section in sections if section.startswith("Example: "))
    return {heading.removeprefix("Example: "): _example(body) for heading, body in headed}


def _example(body: str) -> Example:
    example = Example()
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL):
        if language == "python" and (path := _FILE.match(code)):
            example.files[path.group(1)] = code[path.end() :]
        elif language == "python":
            example.scripts.append(code)
        elif language == "diff" and (path := _EDIT.match(code)):
            example.edits.append((path.group(1), code[path.end() :]))
        elif language == "sh":
            lines = (line.split() for line in code.splitlines())
            example.tests += [words[1:] for words in lines if words[:1] == ["pytest"]]
    return example


def edited(text: str, edit: str) -> str:
    """A file with the lines `+...` of `edit` beside the lines that `edit` repeats, which must be there.

    Lines go below the one that they follow; those before the first one go above it.

    Raises:
        ValueError: a line that `edit` repeats is not there, or not below the one before it.
    """
    lines = text.splitlines()
    place, above = 0, []
    for line in edit.splitlines():
        if line.startswith("+") and place == 0:
            above.append(line[1:])
        elif line.startswith("+"):
            lines.insert(place, line[1:])
            place += 1
        else:
            place = lines.index(line[1:], place) + 1
            lines[place - 1 : place - 1], place, above = above, place + len(above), []
    return "\n".join(lines) + "\n"


def apply(example: Example, folder: Path) -> None:
    """Write the files of an example into a copy of the repository."""
    for path, content in example.files.items():
        (folder / path).write_text(content, encoding="utf-8")
    for path, edit in example.edits:
        text = (folder / path).read_text(encoding="utf-8")
        (folder / path).write_text(edited(text, edit), encoding="utf-8")


def copy_repository(folder: Path) -> None:
    """Package, tests and settings; no data that only other tests read."""
    leave = shutil.ignore_patterns("__pycache__", "golden", "*.json")
    for name in ("stable_audio", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", folder)


def run(folder: Path) -> dict[str, str]:
    """Run every example in `folder`, which has them all: name -> what failed, empty where all is well."""
    return {name: _run(example, folder) for name, example in examples(PAGE.read_text("utf-8")).items()}


def _run(example: Example, folder: Path) -> str:
    import pytest

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        for script in example.scripts:
            scope: dict[str, Any] = {"__name__": "__main__"}
            try:
                exec(compile(script, "adding_a_component.md", "exec"), scope)
            except Exception:
                return f"{script}\n{traceback.format_exc()}"
        for arguments in example.tests:
            chosen = ["-q", "--assert=plain", "-p", "no:cacheprovider", "--rootdir", str(folder), *arguments]
            if (status := pytest.main(chosen)) != 0:
                return f"pytest {' '.join(arguments)} ends with {status!r}\n{output.getvalue()}"
    return ""


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    Path("failures.json").write_text(json.dumps(run(Path.cwd())), encoding="utf-8")
