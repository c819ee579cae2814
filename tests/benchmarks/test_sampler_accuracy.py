"""The page about the accuracy of samplers: its tables are those of the figures, which can be had again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sampler_accuracy, sampler_accuracy_page
from benchmarks.sampler_accuracy import SAME, STOCHASTIC, mixture_problem, rms, runs, settings_of
from benchmarks.sampler_accuracy_page import BUDGETS, PAGE, errors_of, write_page
from stable_audio.diffusion.samplers import SAMPLERS
from tests.docs.tables import table


def _results(error: float = 0.5) -> dict[str, Any]:
    problem = mixture_problem(2)
    errors = [
        {"sampler": s, "schedule": schedule, "budget": b, "evaluations": int(b) + 1, "error": error / (1 + b)}
        for s, schedule, b, _ in runs(problem)
    ]
    errors[-1]["error"] = 1e-6  # rk4, or whatever comes last, is the best by far
    distances = [{"sampler": "", "budget": 0, "distance": 0.1}]
    distances += [{"sampler": "euler", "budget": budget, "distance": 0.2} for budget in BUDGETS]
    return {"mixture": {"errors": errors, "distances": distances}}


def test_tables_and_picture_are_those_of_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "page.png"
    page.write_text(PAGE.read_text())
    monkeypatch.setattr(sampler_accuracy_page, "PAGE", page)
    monkeypatch.setattr(sampler_accuracy_page, "PICTURE", picture)
    write_page(_results())
    text = page.read_text()
    assert "| `euler` | `logsnr` (default) | 0.1 | 0.056 | 0.029 | 0.015 | 0.0077 |" in text
    assert re.search(r"\| 64 \| 0.0077 \| `\w+`, `\w+`: 1e-06 \|", text)
    assert "| `euler` | 0.2 | 0.2 | 0.2 | 0.2 | 0.2 |" in text
    assert picture.stat().st_size > 1000
    write_page(_results())
    assert page.read_text() == text


def test_every_sampler_has_a_row_or_a_reason() -> None:
    measured = {sampler for sampler, *_ in runs(mixture_problem(1))}
    assert measured | set(STOCHASTIC) | set(SAME) | set(sampler_accuracy.CFGPP) == set(SAMPLERS)
    for problem in ("mixture", "model"):
        rows = table("sampler_accuracy", f"Every sampler on the {problem}")
        assert {row[0].strip("`") for row in rows} == measured
    told = {row[0].strip("`") for row in table("sampler_accuracy", "Samplers with fresh noise")}
    assert set(STOCHASTIC) <= told


@pytest.mark.parametrize(
    ("sampler", "schedule"), [("euler", "linear"), ("unipc", "linear"), ("k-unipc", "polyexponential")]
)
def test_figures_of_the_page_can_be_measured_again(sampler: str, schedule: str) -> None:
    problem = mixture_problem(128)
    reference = problem.solve("rk4", schedule="linear", steps=200)
    found = problem.solve(sampler, **settings_of(SAMPLERS[sampler], schedule, 16))
    assert problem.evaluations == 16
    error = float((rms(found - reference) / rms(reference)).median())
    (row,) = [
        row
        for row in table("sampler_accuracy", "Every sampler on the mixture")
        if row[0] == f"`{sampler}`" and row[1].startswith(f"`{schedule}`")
    ]
    assert error == pytest.approx(float(row[2 + BUDGETS.index(16)]), rel=0.5)


def test_errors_are_by_sampler_and_schedule() -> None:
    errors = errors_of(_results()["mixture"])
    assert errors["euler", "linear"][8] == (9, 0.5 / 9)
