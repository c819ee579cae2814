"""The scale of the charts on the page: one value far from all others flattens none, however few there are."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stable_audio.interface import watch
from stable_audio.interface.watch.curves import Curves
from stable_audio.interface.watch.metrics import Metrics
from stable_audio.training.record.curves import value_range
from tests.interface.watch.test_metrics import _read

SCRIPT = Path(watch.__file__).with_name("charts.js")

CANVAS = """
const calls = [];
const get = (_, name) => (...args) => calls.push([name, ...args]);
const context = new Proxy({}, { get, set: () => true });
const canvas = { getBoundingClientRect: () => ({ width: 400, height: 200 }), getContext: () => context };
const element = () => ({ style: {}, append() {}, replaceChildren() {}, textContent: '' });
const parts = { canvas, '.legend': element(), output: element() };
const figure = { querySelector: name => parts[name] };
globalThis.document = { documentElement: {}, createElement: element };
globalThis.getComputedStyle = () => ({ getPropertyValue: () => '' });
globalThis.devicePixelRatio = 1;
"""


def _node(code: str, *values: Any) -> Any:
    """What a script prints as JSON, after `charts.js`; it finds the values in `values`."""
    given = f"const values = {json.dumps(values)};"
    script = f"{CANVAS}{SCRIPT.read_text()}{given}{code}"
    result = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def _heights(losses: Sequence[float], **options: Any) -> list[float]:
    """How high in the chart each point of a line is drawn."""
    line = {
        "label": "a",
        "colour": "red",
        "steps": list(range(len(losses))),
        "mean": list(losses),
        "low": list(losses),
        "high": list(losses),
    }
    drawn = _node(
        "charts.lines(figure, [values[0]], values[1]);"
        "const last = calls.map(call => call[0]).lastIndexOf('clip');"
        "console.log(JSON.stringify(calls.slice(last).filter(call => call[0] === 'lineTo').map(c => c[2])));",
        line,
        options,
    )
    return list(drawn)


def _spark(losses: Sequence[float]) -> list[float]:
    return list(
        _node(
            "charts.spark(canvas, values[0], 'red');"
            "console.log(JSON.stringify(calls.filter(call => call[0] === 'lineTo').map(call => call[2])));",
            losses,
        )
    )


pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node runs the script")


@pytest.mark.parametrize("count", [6, 12, 60, 61, 200])
@pytest.mark.parametrize("options", [{}, {"log": True}, {"smooth": 0.9}])
def test_one_spike_does_not_flatten_a_chart(count: int, options: dict[str, Any]) -> None:
    losses = [2.0 + math.cos(n / count * 3) for n in range(count)]
    plain = _heights(losses, **options)
    losses[count // 2] = 1e6
    spiked = _heights(losses, **options)
    assert len(spiked) == count
    others = [spiked[n] for n in range(count) if n != count // 2]
    assert max(others) - min(others) > 0.7 * (max(plain) - min(plain))


@pytest.mark.parametrize("count", [6, 11, 50])
def test_nor_the_small_one_in_the_list(count: int) -> None:
    losses = [2.0 + math.cos(n / count * 3) for n in range(count)]
    losses[count // 2] = 1e6
    heights = _spark(losses)
    others = [heights[n] for n in range(count) if n != count // 2]
    assert max(others) - min(others) > 0.7 * 200


def test_the_rule_is_that_of_the_page_of_a_run() -> None:
    rng = random.Random(0)
    lists = [[rng.gauss(0, 1) ** 5 for _ in range(rng.randint(1, 130))] for _ in range(200)]
    lists += [[1.0] * 5, [1.0, 1.0, 1e6], [1e6, *[1.0, 2.0] * 4]]
    ranges = _node("console.log(JSON.stringify(values[0].map(charts.valueRange)));", lists)
    assert [tuple(found) for found in ranges] == [value_range(values) for values in lists]


def test_values_that_are_no_numbers_spoil_no_mean(tmp_path: Path) -> None:
    rows = {1: "2", 2: "nan", 3: "inf", 4: "-inf", 5: "1e400", 6: "1e308", 7: "1e308", 8: "4"}
    text = "".join(f"{step},{loss},1\n" for step, loss in rows.items())
    (tmp_path / "metrics.csv").write_text(f"step,train/loss,speed/x\n{text}")
    metrics = Metrics(tmp_path / "metrics.csv")
    _read(metrics)
    curves: Curves = metrics.all_curves()
    assert curves.series("train/loss")["mean"] == [2.0, 4.0]
    assert curves.means("train/loss", 1) == [3.0]
    assert curves.least("train/loss") == 2.0
    assert len(curves.series("speed/x")["mean"]) == len(rows)
    assert metrics.latest["train/loss"] == 4.0
