"""One form of docstring: Google style, one argument or field per line, so that editors show them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stable_audio"

CHECKED = (
    "audio",
    "backbones",
    "checkpoints",
    "cli",
    "conditioning",
    "config",
    "data",
    "diffusion",
    "diffusion_autoencoder.py",
    "evaluation",
    "factory",
    "inference",
    "interface",
    "model.py",
    "network.py",
    "nn",
    "optim",
    "options.py",
    "pretransforms",
    "public.py",
    "shipped.py",
    "stored",
    "training",
    "types.py",
    "wording.py",
)
"""Folders and files of the package that keep the form."""

SECTION = re.compile(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)", re.MULTILINE)
RAISES = re.compile(r"^Raises:\n((?:[ ]+.*\n?|\n)+)", re.MULTILINE)
Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def grouped_entries(source: str) -> list[str]:
    """Where the docstrings of `source` describe several names at once, or names outside of a section."""
    tree = ast.parse(source)
    nodes = [n for n in ast.walk(tree) if isinstance(n, Documented)]
    return [f"{n.lineno} {n.name}: {fault}" for n in nodes for fault in _faults(n)]


def _faults(node: Documented) -> Iterator[str]:
    doc = ast.get_docstring(node) or ""
    names = "|".join(map(re.escape, sorted(_names(node)))) or "(?!)"
    group = rf"(?:^|[.;] )`?((?:{names})`?(?:, `?(?:{names})`?)*): "
    inside = re.compile(group)
    for section in SECTION.findall(doc):
        for entry in re.split(r"\n(?=    \S)", section.rstrip()):
            text = " ".join(entry.split())
            label, _, description = text.partition(": ")
            if not re.fullmatch(r"\*{0,2}\w+", label):
                yield f"'{label}' is not one name"
            yield from (f"'{name}' stands in the entry of '{label}'" for name in inside.findall(description))
    for section in RAISES.findall(doc):
        yield from (f"'{name}' shares a line" for name in re.findall(r"[.;] (\w+Error): ", section))
    paragraphs = SECTION.sub("", doc).split("\n\n")
    for paragraph in paragraphs:
        yield from (f"'{n}' stands outside of a section" for n in inside.findall(" ".join(paragraph.split())))


def _names(node: Documented) -> set[str]:
    """Arguments of a function; of a class its annotated fields and the arguments of its constructor."""
    if isinstance(node, ast.ClassDef):
        fields = {
            n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        }
        constructors = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        return fields.union(*map(_names, constructors))
    arguments = node.args
    return {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def _checked_files() -> Iterator[Path]:
    for name in CHECKED:
        path = PACKAGE / name
        assert path.exists(), f"{name} has moved; correct CHECKED"
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def test_every_argument_and_field_is_documented_on_a_line_of_its_own() -> None:
    faults = [
        f"{path.relative_to(PACKAGE)}:{fault}"
        for path in _checked_files()
        for fault in grouped_entries(path.read_text(encoding="utf-8"))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("doc", "faults"),
    [
        ("Args:\n        a: one.\n        b: two: 2.", 0),
        ("Args:\n        a, b: both.", 1),
        ("Args:\n        a: one. b: two.", 1),
        ("Args:\n        a: one of\n            them. b: two.", 1),
        ("Args:\n        b: one. a, b: two.", 1),
        ("a: one. b: two.", 2),
        ("Raises:\n        OSError: one. ValueError: two.", 1),
        ("Returns:\n        a, b: both.", 0),
    ],
)
def test_the_rule_tells_grouped_entries_from_single_ones(doc: str, faults: int) -> None:
    source = f'def f(a, b):\n    """Do it.\n\n    {doc}\n    """\n'
    assert len(grouped_entries(source)) == faults
