"""The curves of a run's page, as pictures of which one value far from all others spoils nothing."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from stable_audio.wording import plural

CURVES = ("train/loss", "train/grad_norm", "train/lr", "val/avg_loss", "speed/steps_per_second")
"""Columns of metrics.csv that are drawn, where they have values."""

MOST_POINTS = 400
WIDTH, HEIGHT, MARK = 640, 140, 7

FEWEST, FEW = 4, 10
"""Number of values from which on some may lie outside of a picture, and below which only those do that are
very far away: of few values, the first losses are far from the others, too."""
SHARE = 0.02
"""Share of the values, at each end, that may lie outside."""
FAR, VERY_FAR = 2.0, 100.0
"""They do from so many times the range of the others on."""
LARGEST = 1e300
"""Values beyond it count as not finite: sums of them would be."""

Point = tuple[float, float]
"""(step, value)."""


def curves(path: Path) -> Iterator[str]:
    """A picture of each curve of the metrics at `path`; values that are not finite are left out."""
    points: dict[str, list[Point]] = {name: [] for name in CURVES}
    for row in metric_rows(path):
        for name, column in points.items():
            if (point := _point(row.get("step"), row.get(name))) is not None:
                column.append(point)
    for name, column in points.items():
        if len(column) > 1:
            yield f"<h3>{escape(name)}</h3>{_picture(column)}"


def metric_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of the metrics at `path`, by column; none if there is no such file. Lines that a crash has
    filled with zero bytes are left out, and of other damaged ones any text may come."""
    if path.is_file():
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            yield from csv.DictReader(line for line in file if "\0" not in line)


def _point(step: str | None, value: str | None) -> Point | None:
    try:
        point = float(step or "nan"), float(value or "nan")
    except ValueError:
        return None
    return point if all(abs(number) < LARGEST for number in point) else None


def value_range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value to draw: all but a few at the ends that lie far from the others.

    The page of `stable-audio watch` has the same rule, in `charts.js`.
    """
    ordered = sorted(values)
    cut = math.ceil(SHARE * len(ordered)) if len(ordered) >= FEWEST else 0
    low, high = ordered[cut], ordered[len(ordered) - 1 - cut]
    reach = (FAR if len(ordered) >= FEW else VERY_FAR) * (high - low)
    if reach == 0:
        return ordered[0], ordered[-1]
    near = [value for value in ordered if low - reach <= value <= high + reach]
    return near[0], near[-1]


def _picture(points: Sequence[Point]) -> str:
    steps = [step for step, _ in points]
    low, high = value_range([value for _, value in points])
    left, right = min(steps), max(steps)
    inside = [point for point in points if low <= point[1] <= high]
    outside = [point for point in points if not low <= point[1] <= high]
    wide, tall = (right - left) or 1.0, (high - low) or 1.0
    drawn = [((x - left) / wide, (y - low) / tall) for x, y in _thinned(inside)]
    line = " ".join(f"{x * WIDTH:.1f},{HEIGHT - y * HEIGHT:.1f}" for x, y in drawn)
    marks = {_mark((x - left) / wide, above=y > high) for x, y in outside}
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" height="{HEIGHT}">'
        f'<polyline points="{line}"/><path d="{"".join(sorted(marks))}"/></svg>'
        f"<p>{low:.4g} to {high:.4g}, steps {left:.0f} to {right:.0f}; last {points[-1][1]:.4g}"
        f"{_beyond(outside)}</p>"
    )


def _mark(x: float, *, above: bool) -> str:
    """A short line at the upper or lower edge, as a part of a path."""
    return f"M{x * WIDTH:.0f} {0 if above else HEIGHT - MARK}v{MARK}"


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Means over groups of neighbours, so that a page of a long run is small."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups]


def _beyond(outside: Sequence[Point]) -> str:
    """What lies outside of a picture, in words."""
    if not outside:
        return ""
    step, value = max(outside, key=lambda point: abs(point[1]))
    count = plural(len(outside), "value")
    return f"; {count} outside, marked at the edge, the farthest {value:.4g} at step {step:.0f}"
