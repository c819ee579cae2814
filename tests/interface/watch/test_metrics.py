"""The reader of `metrics.csv`, whatever happens to the file between two looks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stable_audio.interface.watch import metrics as metrics_module
from stable_audio.interface.watch.curves import BINS, Curves
from stable_audio.interface.watch.metrics import Metrics
from stable_audio.interface.watch.rows import _all_at_once, header_of, parsed
from stable_audio.training.record.loggers.csv_logger import CSVLogger

NAMES = ("train/loss", "val/avg_loss", "speed/x")


def _read(metrics: Metrics) -> None:
    metrics.glance()
    while metrics.read():
        pass


def _expected(path: Path) -> dict[str, dict[int, float]]:
    """Column -> step -> value, cell by cell."""
    if not path.is_file():
        return {}
    whole_lines = path.read_bytes().decode().split("\n")[:-1]
    head, *lines = [line.removesuffix("\r").split(",") for line in whole_lines] or [[""]]
    if head[0] != "step" or not all(name in ("step", *NAMES) for name in head):
        return {}
    columns: dict[str, dict[int, float]] = {}
    for cells in lines:
        try:
            values = [float(cell) if cell else math.nan for cell in cells]
        except ValueError:
            continue
        if len(values) != len(head) or not (values[0] >= 0 and values[0] == int(values[0])):
            continue
        for name, value in zip(head[1:], values[1:]):
            if math.isfinite(value):
                columns.setdefault(name, {})[int(values[0])] = value
    return columns


def _told(metrics: Metrics) -> dict[str, dict[int, float]]:
    curves = metrics.all_curves()
    series = {name: curves.series(name) for name in metrics.columns}
    return {n: dict(zip(map(int, s["steps"]), s["mean"])) for n, s in series.items() if s["steps"]}


VALUES = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from([0.5, -1.25, 1e-9, 3.0, 12345.0, math.nan, math.inf]), max_size=3
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("row"), VALUES),
        st.tuples(st.just("more"), VALUES),
        st.tuples(st.just("resume"), st.integers(0, 12)),
        st.tuples(
            st.just("damage"), st.sampled_from([b"\0\0\0\n", b"7,a,b\n", b"nonsense\n", b"1,2,3,4,5,6\n"])
        ),
        st.tuples(st.just("cut"), st.integers(1, 9)),
        st.tuples(st.just("remove"), st.none()),
        st.tuples(st.just("glance"), st.none()),
        st.tuples(st.just("read"), st.none()),
        st.tuples(st.just("look"), st.none()),
    ),
    min_size=3,
    max_size=40,
)


class _Writer:
    """A run that writes its metrics, with what befalls files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "metrics.csv"
        self.path.unlink(missing_ok=True)
        self.step = 0
        self.logger = CSVLogger(folder=folder, name="run")

    def row(self, values: dict[str, float]) -> None:
        self.step += 1
        self.logger.scalars(values, self.step)

    def more(self, values: dict[str, float]) -> None:
        if self.step:
            self.logger.scalars(values, self.step)

    def resume(self, at: int) -> None:
        self.step = min(at, self.step)
        self.logger = CSVLogger(folder=self.folder, name="run", resumed_at=self.step)

    def damage(self, line: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(line)
        self.resume(self.step)  # no run goes on writing behind damage

    def cut(self, count: int) -> None:
        if self.path.is_file():
            content = self.path.read_bytes()
            self.path.write_bytes(content[:-count])

    def remove(self, _: None) -> None:
        self.path.unlink(missing_ok=True)
        self.step = 0
        self.logger = CSVLogger(folder=self.folder, name="run")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, chunk=st.sampled_from([64, 150, 2**20]))
def test_it_ends_with_what_is_in_the_file(events: list[tuple[str, Any]], chunk: int, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_module, "CHUNK_BYTES", chunk)
        patch.setattr(metrics_module, "GLANCES", 2)
        patch.setattr(metrics_module, "GLANCE_BYTES", 40)
        patch.setattr(metrics_module, "TAIL_BYTES", 60)
        writer, metrics = _Writer(tmp_path), Metrics(tmp_path / "metrics.csv")
        for name, value in events:
            if name == "look":
                _read(metrics)
            elif name in ("glance", "read"):
                getattr(metrics, name)()
            else:
                getattr(writer, name)(value)
        _read(metrics)
        expected = _expected(writer.path)
        assert _told(metrics) == {
            n: {s: float(f"{v:.6g}") for s, v in c.items()} for n, c in expected.items()
        }
        assert metrics.latest == {name: steps[max(steps)] for name, steps in expected.items()}
        assert metrics.complete


def test_a_glance_at_a_long_run_is_near_the_whole_and_reads_little(tmp_path: Path) -> None:
    steps = np.arange(1, 40_001)
    losses = 1 + np.exp(-steps / 5000)
    lines = [f"{s},{loss:.8g},{0.25 if s % 10_000 == 0 else ''}\r\n" for s, loss in zip(steps, losses)]
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,val/avg_loss\r\n" + "".join(lines), newline="")
    metrics = Metrics(path)
    metrics.glance()
    assert (metrics.step, metrics.rows_apart, metrics.complete) == (40_000, 1, False)
    rough = metrics.curves.series("train/loss")
    counted = metrics.curves._counts.sum()
    assert 40 <= len(rough["steps"]) <= 512
    assert counted < 15_000
    assert np.allclose(rough["mean"], 1 + np.exp(-np.array(rough["steps"]) / 5000), atol=0.02)
    while metrics.read():
        pass
    told = metrics.all_curves().series("val/avg_loss")
    assert told == {k: [0.25] * 4 for k in ("mean", "low", "high")} | {"steps": [1e4, 2e4, 3e4, 4e4]}
    assert metrics.all_curves()._counts[:, 0].sum() == 40_000


def test_other_rows_after_the_same_step_are_read_anew(tmp_path: Path) -> None:
    logger = CSVLogger(folder=tmp_path, name="run")
    for step in range(1, 21):
        logger.scalars({"train/loss": 0.5}, step)
    metrics = Metrics(tmp_path / "metrics.csv")
    _read(metrics)
    again = CSVLogger(folder=tmp_path, name="run", resumed_at=10)
    for step in range(11, 31):  # by the next look, the file is longer than it was
        again.scalars({"train/loss": 0.25}, step)
    _read(metrics)
    assert _told(metrics)["train/loss"] == {step: 0.5 if step <= 10 else 0.25 for step in range(1, 31)}


@pytest.mark.parametrize("in_order", [True, False])
def test_curves_are_exact_means_of_ranges(in_order: bool) -> None:
    generator = np.random.default_rng(0)
    steps = np.arange(5 * BINS) if in_order else generator.permutation(np.arange(5 * BINS))
    values = generator.normal(size=(len(steps), 2))
    values[generator.random(values.shape) < 0.3] = np.nan
    values[5, 0] = np.inf
    curves = Curves(["a", "b"])
    for part in np.array_split(np.arange(len(steps)), 7):
        curves.add(steps[part], values[part])
    assert curves.width == 8
    series = curves.series("a")
    for place in range(len(series["steps"])):
        inside = (steps // 8 == int(series["steps"][place]) // 8) & np.isfinite(values[:, 0])
        expected = values[inside, 0]
        assert series["mean"][place] == pytest.approx(expected.mean(), rel=1e-5, abs=1e-6)
        assert series["low"][place] == pytest.approx(expected.min(), rel=1e-5)
        assert series["high"][place] == pytest.approx(expected.max(), rel=1e-5)
        assert series["steps"][place] == pytest.approx(steps[inside].mean(), rel=1e-5)
    assert curves.least("a") == np.nanmin(values[:, 0])
    measured = np.isfinite(values[:, 0])
    halves = [values[measured & (steps // (8 * 160) == half), 0].mean() for half in (0, 1)]
    assert curves.means("a", 2) == pytest.approx(halves, rel=1e-5, abs=1e-6)
    assert len(curves.means("a", 10_000)) == 320
    assert curves.means("c", 2) == Curves(["c"]).means("c", 2) == []
    assert curves.least("c") is None


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (b"1,2,\r\n2,,\r\n", [[1, 2, np.nan], [2, np.nan, np.nan]]),
        (b"1,2,3\n2,nan,inf\n", [[1, 2, 3], [2, np.nan, np.inf]]),
        (b"1,2,3\n2,2\n3,,1\n", [[1, 2, 3], [3, np.nan, 1]]),
        (b"1,2,3\n2,2\n3,,1,4\n", [[1, 2, 3]]),  # as many cells as two rows have
        (b"1,2,3\n\0\0\0\n2,x,1\n-1,0,0\n1.5,0,0\nnan,0,0\n", [[1, 2, 3]]),
        (b"", []),
        (b"\n\n", []),
    ],
)
def test_rows(text: bytes, rows: list[list[float]]) -> None:
    assert np.array_equal(parsed(text, 3), np.array(rows).reshape(-1, 3), equal_nan=True)


@pytest.mark.parametrize("keep", [[0], [0, 2], [0, 1, 2]])
def test_some_cells_of_rows(keep: list[int]) -> None:
    text = b"1,2,\n2,,1e-05\n3,-nan,-1.2345678e-05\n" + b"4,0." + b"1" * 40 + b",3\n"
    whole = np.array([[1, 2, np.nan], [2, np.nan, 1e-5], [3, np.nan, -1.2345678e-5], [4, 1 / 9, 3]])
    assert np.array_equal(parsed(text, 3, keep), whole[:, keep], equal_nan=True)
    assert np.array_equal(parsed(text + b"5,1,x\n", 3, keep)[:4], whole[:, keep], equal_nan=True)


def test_a_text_without_damage_is_parsed_at_once() -> None:
    text = b"1,2,\n2,,1e-05\n30,nan,-1.2345678e-05\n"
    expected = [[1, 2, np.nan], [2, np.nan, 1e-5], [30, np.nan, -1.2345678e-5]]
    assert np.array_equal(_all_at_once(text, 3, [0, 1, 2]), expected, equal_nan=True)


def test_headers() -> None:
    assert header_of(b'step,train/loss,"a,b"\r\n') == ("step", "train/loss", "a,b")
    for line in (b"", b"a,b\n", b"step,a,a\n", b"\xff\n", b"step\rx,a\n"):
        assert header_of(line) is None


def test_a_run_whose_header_is_damaged_can_be_continued(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"step,a\r7,a,b\r\n1,2\r\n")
    CSVLogger(folder=tmp_path, name="run", resumed_at=1).scalars({"a": 3.0}, 2)
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n2,3\n"
    assert "metrics.damaged.csv" in caplog.text
