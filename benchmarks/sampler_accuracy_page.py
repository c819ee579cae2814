"""The tables and the picture of docs/sampler_accuracy.md, from the figures of sampler_accuracy.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_audio.diffusion.samplers import SAMPLERS

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "sampler_accuracy.md", DOCS / "sampler_accuracy.png"
BUDGETS = (4, 8, 16, 32, 64)
OF_FLOWS = ("flow",)
OF_V = ("ve", "vp")
CURVES = (
    ("euler", "logsnr"),
    ("euler", "linear"),
    ("dpmpp", "linear"),
    ("unipc", "linear"),
    ("rk4", "linear"),
    ("ddim", "linear"),
    ("dpmpp-2m", "polyexponential"),
    ("k-unipc", "polyexponential"),
    ("k-lms", "polyexponential"),
)
"""Samplers and schedules in the picture."""

Row = tuple[str, str]
Errors = Mapping[Row, Mapping[float, tuple[int, float]]]
"""(sampler, schedule) -> budget -> (evaluations, error)."""


def write_page(results: Mapping[str, Any]) -> None:
    """Put the tables between their marks on the page, and draw the picture."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {f"errors {name}": error_table(errors_of(part)) for name, part in results.items()}
    tables |= {f"best {name}": best_table(errors_of(part)) for name, part in results.items()}
    tables["distances"] = distance_table(results["mixture"]["distances"])
    for name, table in tables.items():
        text = replaced(text, name, table)
    PAGE.write_text(text, encoding="utf-8")
    draw({name: errors_of(part) for name, part in results.items()})


def replaced(text: str, name: str, table: str) -> str:
    """The text with another table between the marks of `name`."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}{table}\n{end}{tail}"


def errors_of(part: Mapping[str, Any]) -> Errors:
    errors: dict[Row, dict[float, tuple[int, float]]] = {}
    for entry in part["errors"]:
        row = errors.setdefault((entry["sampler"], entry["schedule"]), {})
        row[entry["budget"]] = (entry["evaluations"], entry["error"])
    return errors


def error_table(errors: Errors) -> str:
    """Every sampler by its default schedule and, below, by the one with the least errors."""
    lines = header("sampler", "schedule", *map(str, BUDGETS))
    for name in dict.fromkeys(sampler for sampler, _ in errors):
        if SAMPLERS[name].one_by_one:
            continue
        usual = (name, SAMPLERS[name].schedule)
        best = min((row for row in errors if row[0] == name), key=lambda row: mean_error(errors[row]))
        for row in dict.fromkeys((usual, best)):
            cells = [told(errors[row][budget][1]) for budget in BUDGETS]
            lines.append(line(f"`{name}`", f"`{row[1]}`{' (default)' if row == usual else ''}", *cells))
    adaptive = [row for row in errors if SAMPLERS[row[0]].one_by_one]
    for row in adaptive:
        points = ", ".join(f"{told(e)} with {n}" for n, e in errors[row].values())
        lines.append(line(f"`{row[0]}`", "its own steps", points, "", "", "", ""))
    return "\n".join(lines)


def best_table(errors: Errors) -> str:
    """For each number of evaluations the best sampler and schedule, and the default."""
    lines = header("evaluations", "flows: default", "flows: best", "`v`: `dpmpp-2m`", "`v`: best")
    for budget in BUDGETS:
        cells = []
        for default, spaces in ((("euler", "logsnr"), OF_FLOWS), (("dpmpp-2m", "polyexponential"), OF_V)):
            row = best_row(errors, budget, spaces)
            cells += [
                told(errors[default][budget][1]),
                f"`{row[0]}`, `{row[1]}`: {told(errors[row][budget][1])}",
            ]
        lines.append(line(str(budget), *cells))
    return "\n".join(lines)


def best_row(errors: Errors, budget: int, spaces: Iterable[str]) -> Row:
    rows = [row for row in errors if SAMPLERS[row[0]].space.name in spaces and budget in errors[row]]
    return min(rows, key=lambda row: errors[row][budget][1])


def distance_table(distances: Sequence[Mapping[str, Any]]) -> str:
    lines = header("sampler", *map(str, BUDGETS))
    for name in dict.fromkeys(entry["sampler"] for entry in distances):
        found = {e["budget"]: e["distance"] for e in distances if e["sampler"] == name}
        if name:
            lines.append(line(f"`{name}`", *(told(found[budget]) for budget in BUDGETS)))
        else:
            lines.append(line("as many exact samples", told(found[0]), "", "", "", ""))
    return "\n".join(lines)


def mean_error(row: Mapping[float, tuple[int, float]]) -> float:
    """Geometric mean over the budgets."""
    return sum(math.log(max(error, 1e-12)) for _, error in row.values()) / len(row)


def told(error: float) -> str:
    return f"{error:.2g}"


def header(*names: str) -> list[str]:
    return [line(*names), "|" + "---|" * len(names)]


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def draw(problems: Mapping[str, Errors]) -> None:
    """Errors over evaluations, a panel for each problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(problems), figsize=(5.5 * len(problems), 4.2), squeeze=False)
    titles = {"mixture": "mixture of Gaussians", "model": "quickstart model"}
    for axis, (name, errors) in zip(axes[0], problems.items()):
        for sampler, schedule in CURVES:
            points = sorted(errors[sampler, schedule].values())
            flows = SAMPLERS[sampler].space.name == "flow"
            axis.loglog(*zip(*points), "o-" if flows else "s--", ms=3, lw=1, label=f"{sampler}, {schedule}")
        axis.set_xticks(BUDGETS, list(map(str, BUDGETS)))
        axis.set_ylim(top=1)
        axis.minorticks_off()
        axis.set_title(titles[name])
        axis.set_xlabel("evaluations")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("relative error")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=75)
