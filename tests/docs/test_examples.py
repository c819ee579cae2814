"""The examples of docs/adding_a_component.md: one file and one line each, and they work as they stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.docs.examples import PAGE, apply, copy_repository, edited, examples

EXAMPLES = examples(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What failed of each example, all of them put into one copy of the repository."""
    folder = tmp_path_factory.mktemp("repository")
    copy_repository(folder)
    for example in EXAMPLES.values():
        apply(example, folder)
    script = [sys.executable, "-m", "tests.docs.examples", str(folder)]
    (folder / "docs").mkdir()
    (folder / "docs" / PAGE.name).write_bytes(PAGE.read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, str] = json.loads((folder / "failures.json").read_text(encoding="utf-8"))
    return told


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_works_as_it_stands(name: str, failures: dict[str, str]) -> None:
    assert failures[name] == "", failures[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_shows_a_file_a_line_and_that_it_works(name: str) -> None:
    example = EXAMPLES[name]
    assert example.files
    assert example.edits
    assert example.scripts or example.tests


def test_lines_are_added_where_the_page_says() -> None:
    text = "import a\n\nNAMES = {\n}\nOTHERS = {\n}\n"
    assert edited(text, "+import b\n import a\n OTHERS = {\n+    1: b,\n+    2: b,\n") == (
        "import b\nimport a\n\nNAMES = {\n}\nOTHERS = {\n    1: b,\n    2: b,\n}\n"
    )
    with pytest.raises(ValueError, match="not in list"):
        edited(text, " OTHERS = {\n+    1: b,\n NAMES = {\n")
