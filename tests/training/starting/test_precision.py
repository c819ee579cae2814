"""What `--precision auto` stands for: measured once, and kept by a run that continues."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.inference import rates
from stable_audio.training import trainer
from stable_audio.training.devices.precisions import PRECISIONS
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.precision_names import SHORT
from stable_audio.training.saving.resuming import Resumed
from stable_audio.training.starting import precision
from stable_audio.training.starting.precision import decided
from tests.training.building import tiny_config, tiny_run


def _decided(monkeypatch: pytest.MonkeyPatch, gain: float | None, entry: Any = None, **options: Any) -> str:
    def measured(*_: Any, **__: Any) -> float:
        assert gain is not None, "nothing should be measured"
        return gain

    monkeypatch.setattr(precision, "bfloat16_gain", measured)
    resumed = None if entry is None else Resumed(Path(), {TRAINING_ENTRY: entry})
    processes = options.pop("processes", 1)
    return decided(RunOptions(accelerator="cpu", **options), processes=processes, resumed=resumed).precision


@pytest.mark.parametrize(
    ("gain", "entry", "options", "expected"),
    [
        (1.7, None, {}, "bf16-mixed"),
        (1.5, None, {}, "32-true"),
        (None, None, {"precision": "64-true"}, "64-true"),
        (None, None, {"processes": 2}, "32-true"),  # each would measure something else
        (None, {"precision": ("cpu", "bf16-mixed")}, {}, "bf16-mixed"),
        (None, {"precision": ("cpu", "bf16-mixed")}, {"precision": "32"}, "32-true"),
        (None, {"precision": ("cuda", "16-mixed")}, {}, "32-true"),
        (None, {}, {}, "32-true"),  # a checkpoint of earlier versions
    ],
)
def test_auto_is_measured_once_and_kept(
    monkeypatch: pytest.MonkeyPatch, gain: float | None, entry: Any, options: dict[str, Any], expected: str
) -> None:
    assert _decided(monkeypatch, gain, entry, **options) == expected


@pytest.mark.parametrize(("short", "name"), [("32", "32-true"), ("bf16", "bf16-mixed"), ("16", "16-mixed")])
def test_a_precision_has_one_name(tmp_path: Path, short: str, name: str) -> None:
    """By which everything that depends on it asks."""
    assert RunOptions(precision=short).precision == name
    if name == "16-mixed":
        with pytest.raises(TrainingError, match="does not scale gradients of float16"):
            tiny_run(tmp_path, precision=short, strategy="fsdp")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "16-true"}, "does not scale the loss, .* use --precision bf16-true, or 16-mixed on"),
        ({"precision": "transformer-engine"}, "use --precision fp8-mixed"),
        ({"precision": "transformer-engine-float16"}, "use --precision fp8-mixed"),
        ({"precision": "16-mixed"}, "for GPUs, and this run has none; use --precision bf16-mixed or 32"),
        ({"precision": "64", "strategy": "hsdp"}, "does not split weights in float64; use --precision 32"),
        (
            {"precision": "half"},
            "'half' is unknown; allowed: auto, .*64-true, fp8-mixed, .*, 64, 32, 16, bf16",
        ),
    ],
)
def test_what_would_train_otherwise_than_its_name_says_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        tiny_run(tmp_path, **options)


def test_the_flag_is_documented_with_every_name() -> None:
    pages = Path(__file__).parents[3] / "docs"
    (row,) = (r for r in (pages / "training.md").read_text().splitlines() if r.startswith("| `--precision`"))
    listed = set(re.findall(r"`([\w-]+)`", row.split("|")[3]))
    assert listed == {*PRECISIONS, *SHORT}


@pytest.mark.parametrize(
    ("training", "options"), [({"gradient_release": True}, {}), ({}, {"strategy": "fsdp"})]
)
def test_what_refuses_float16_refuses_it_where_auto_stands_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any], options: dict[str, Any]
) -> None:
    def old_gpu(given: RunOptions, **_: Any) -> RunOptions:
        return replace(given, precision="16-mixed")

    monkeypatch.setattr(trainer, "decided", old_gpu)
    with pytest.raises(TrainingError, match="use --precision bf16-mixed or 32"):
        tiny_run(tmp_path, tiny_config(**training), precision="auto", **options)


def test_a_run_keeps_its_precision_where_it_is_measured_otherwise_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_gain", lambda *_, **__: 3.0)
    tiny_run(tmp_path, max_steps=1).start()
    stored = load_torch_file(tmp_path / "run" / "last.ckpt")[TRAINING_ENTRY]["precision"]
    assert tuple(stored) == ("cpu", "bf16-mixed")
    monkeypatch.setattr(precision, "bfloat16_gain", lambda *_, **__: 1.0)
    again = tiny_run(tmp_path, max_steps=2, recover=True)
    assert again.trainer.precision == "bf16-mixed"


@pytest.mark.parametrize("first", [3.0, 1.0])
def test_a_start_that_left_no_checkpoint_is_not_measured_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float
) -> None:
    monkeypatch.setattr(precision, "bfloat16_gain", lambda *_, **__: first)
    run = tiny_run(tmp_path, max_steps=1)
    run.started()  # and killed
    monkeypatch.setattr(precision, "bfloat16_gain", lambda *_, **__: 4.0 - first)
    assert tiny_run(tmp_path, max_steps=1, recover=True).trainer.precision == run.trainer.precision


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"starts": []},
        {"starts": [3]},
        {"starts": [{"options": 3}]},
        {"starts": [{"options": {"precision": "64-true"}}]},
        {"starts": [{"gpus": ["a card"], "options": {"precision": "32-true"}}]},
    ],
)
def test_a_record_that_says_nothing_of_this_processor_leaves_it_to_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    options = {"save_dir": tmp_path, "name": "run", "recover": True}
    assert _decided(monkeypatch, 3.0, **options) == "bf16-mixed"
    named = {"starts": [{"options": {"precision": "32-true"}}]}
    (tmp_path / "run" / "run.json").write_text(json.dumps(named))
    assert _decided(monkeypatch, 3.0, **options) == "32-true"
    assert _decided(monkeypatch, 3.0, **{**options, "recover": False}) == "bf16-mixed"


def test_the_gain_is_the_ratio_of_the_best_times(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, times = torch.device("cpu"), iter([4.0, 2.0, 3.0, 9.0, 5.0, 1.0, 8.0, 8.0])
    monkeypatch.setattr(rates, "measured_rate", lambda device, dtype, size, clock: 6.0 / dtype.itemsize)
    monkeypatch.setattr(rates, "best_seconds", lambda work, device, rounds, clock: (work(), next(times))[1])
    state = torch.get_rng_state()
    assert rates.bfloat16_gain(cpu, training=True) == 3.0
    assert torch.equal(torch.get_rng_state(), state)
    # Where products alone lose, the rest is not worth timing.
    monkeypatch.setattr(rates, "measured_rate", lambda device, dtype, size, clock: 1.0 * dtype.itemsize)
    assert rates.bfloat16_gain(cpu, training=False) == 0.5


def test_the_gain_on_a_cpu_is_that_of_one_thread_by_the_time_of_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def measured(work: object, device: torch.device, *, rounds: int = 1, clock: object) -> float:
        seen.append((torch.get_num_threads(), clock))
        return 1.0

    monkeypatch.setattr(rates, "best_seconds", measured)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert rates.bfloat16_gain(torch.device("cpu"), training=True) == 1.0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert len(seen) == 2 + 2 * rates.TURNS
    assert set(seen) == {(1, time.process_time)}


@pytest.mark.parametrize("training", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_piece_of_a_network_runs(training: bool) -> None:
    assert rates.bfloat16_gain(torch.device("cpu"), training=training) > 0
