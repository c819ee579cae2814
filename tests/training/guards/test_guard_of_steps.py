"""Bad steps change no weight; a run goes on without them, or goes back to a checkpoint, and to the same bits
after a kill."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stable_audio.checkpoints import read_checkpoint
from stable_audio.checkpoints.steps import step_of_inference
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.optim.step_limits import StepLimits
from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.finite import FiniteGuard
from stable_audio.training.guards.usual_norm import COUNT, FIRST, UsualNorm
from stable_audio.training.trainer import Run
from tests.training.building import tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

GUARD = {"skips": 1, "within": 3}

BAD = 11
"""Batch that is bad, behind the first ten."""


def _spoil(run: Run, batches: set[int], factor: float = math.nan) -> list[int]:
    """Multiply the loss of these batches; returns the list of the batches that are trained on."""
    step, trained = run.module.training_step, []

    def training_step(*args: Any) -> Tensor:
        trained.append(run.module.position)
        return step(*args) * (factor if run.module.position in batches else 1.0)

    run.module.training_step = training_step  # type: ignore[method-assign]
    return trained


def _run(
    folder: Path, batches: set[int], *, factor: float = math.nan, guard: Any = None, **options: Any
) -> Run:
    config = tiny_config(**({} if guard is None else {"guard": guard}))
    run = tiny_run(folder, config, **{"max_steps": 14, **options})
    _spoil(run, batches, factor)
    return run


def _content(folder: Path, name: str = "run") -> dict[str, Any]:
    return load_torch_file(folder / name / "last.ckpt")


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e9])
def test_a_bad_step_is_skipped_and_its_files_are_named(
    tmp_path: Path, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    run = _run(tmp_path, {BAD}, factor=factor)
    before: list[Any] = []
    run.module.before_step = lambda: before.append(  # type: ignore[method-assign]
        [p.detach().clone() for p in run.module.model.parameters()]
    )
    assert run.start() == 0
    same = [all(map(torch.equal, a, b)) for a, b in itertools.pairwise(before)]
    assert [i for i, unchanged in enumerate(same) if unchanged] == [BAD]
    text = "is a spike: its norm is" if factor == 1e9 else "is not finite"
    assert f"{text}" in caplog.text
    assert f"at step {BAD + 1}; the step is skipped, the weights were not changed" in caplog.text
    assert re.search(r"Files of this step: train/\d{6}, train/\d{6}$", caplog.text, re.MULTILINE)
    # The step counts: schedules and the order of the data go on.
    entry = _content(tmp_path)["stable_audio"]
    assert (entry["step"], entry["position"]) == (14, 14)
    optimizer = _content(tmp_path)["optimizer_states"][0]["state"][0]
    assert float(optimizer["step"]) == 13


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that skips a step, and of one that goes back."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert _run(folder, {BAD}, name="skips").start() == 0
    assert _run(folder, {10, 12}, name="back", guard=GUARD, checkpoint_every=4).start() == 0
    return folder


@pytest.mark.parametrize("stop", [BAD, BAD + 1])
def test_a_run_is_continued_to_the_same_bits_after_a_skip(tmp_path: Path, unbroken: Path, stop: int) -> None:
    assert _run(tmp_path, {BAD}, name="parts", max_steps=stop).start() == 0
    assert _run(tmp_path, {BAD}, name="parts", recover=True).start() == 0
    assert_same_checkpoint(unbroken / "skips" / "last.ckpt", tmp_path / "parts" / "last.ckpt")
    whole, parts = _content(unbroken, "skips"), _content(tmp_path, "parts")
    assert whole["stable_audio"]["guard"] == parts["stable_audio"]["guard"]


def test_after_too_many_bad_steps_a_run_goes_back_and_its_data_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tiny_run(tmp_path, tiny_config(guard=GUARD), max_steps=14, checkpoint_every=4)
    trained = _spoil(run, {10, 12})
    assert run.start() == 0
    # Step 8 has the last checkpoint before the first bad step; batches 8 to 12 are not trained on again.
    assert trained == [*range(13), 13, 14, 15, 16, 17, 18]
    assert "more than 1 bad step between step 11 and 13; the run goes back to step 8" in caplog.text
    entry = _content(tmp_path)["stable_audio"]
    assert (entry["step"], entry["position"], entry["guard"]["returns"]) == (14, 19, 1)
    assert sum(entry["data"][0][key] for key in ("batch", "handed_out")) == 2 * 19
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 15))
    names = {p.name for p in (tmp_path / "run" / "checkpoints").glob("*.ckpt")}
    assert names == {f"step={n:08d}.ckpt" for n in (4, 8, 12, 14)}


class _Files(pl.Callback):
    """What is in the folder of checkpoints after each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run" / "checkpoints"
        self.names: list[tuple[int, list[str]]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        names = sorted(path.stem for path in self.folder.glob("left-*"))
        self.names.append((trainer.global_step, names))


@pytest.mark.parametrize("form", ["file", "shards"])
def test_checkpoints_that_a_run_has_left_stay_until_it_has_others(tmp_path: Path, form: str) -> None:
    """It leaves that of step 12 twice."""
    guard = {**GUARD, "returns": 3}
    options: dict[str, Any] = {"guard": guard, "checkpoint_every": 4, "checkpoint_format": form, "keep": 2}
    run = _run(tmp_path, {10, 12, 15, 17}, max_steps=18, **options)
    files = _Files(tmp_path)
    run.trainer.callbacks.insert(0, files)  # type: ignore[attr-defined]
    assert run.start() == 0
    assert run.module.guard.returns == 2
    left = ["left-step=00000012"] * (1 if form == "shards" else 2)  # one folder, or two files
    assert [names for step, names in files.names if step == 11] == [[], left, left]
    assert files.names[-1] == (18, [])
    assert {p.stem for p in (tmp_path / "run" / "checkpoints").iterdir()} == {
        "step=00000016",
        "step=00000018",
    }


def test_a_run_that_has_gone_back_is_continued_to_the_same_bits(tmp_path: Path, unbroken: Path) -> None:
    options = {"guard": GUARD, "checkpoint_every": 4}
    assert _run(tmp_path, {10, 12}, name="parts", max_steps=13, **options).start() == 0
    assert _content(tmp_path, "parts")["stable_audio"]["guard"]["returns"] == 1
    assert _run(tmp_path, {10, 12}, name="parts", recover=True, **options).start() == 0
    assert_same_checkpoint(unbroken / "back" / "last.ckpt", tmp_path / "parts" / "last.ckpt")


def test_a_run_killed_right_after_going_back_goes_back_again(tmp_path: Path, unbroken: Path) -> None:
    options = {"guard": GUARD, "checkpoint_every": 4}
    run = _run(tmp_path, {10, 12}, name="parts", **options)
    fit = run._fit

    def killed(checkpoint: Path | None) -> None:
        if checkpoint is not None:
            raise KeyboardInterrupt  # leaves nothing of its own
        fit(checkpoint)

    run._fit = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.start()
    again = _run(tmp_path, {10, 12}, name="parts", recover=True, **options)
    assert again.resume is not None
    assert _content(tmp_path, "parts")["stable_audio"]["step"] == 8
    assert again.start() == 0
    assert_same_checkpoint(unbroken / "back" / "last.ckpt", tmp_path / "parts" / "last.ckpt")


@pytest.mark.parametrize("form", ["file", "shards"])
def test_the_weights_of_a_run_are_those_of_the_step_that_it_has_gone_back_to(
    tmp_path: Path, form: str
) -> None:
    """Not those that it has left at a stop of a later step."""
    options = {"guard": GUARD, "checkpoint_every": 4, "checkpoint_format": form}
    assert _run(tmp_path, {10, 12}, max_steps=11, **options).start() == 0
    folder = tmp_path / "run"
    assert step_of_inference(folder / "last.safetensors") == 11
    run = _run(tmp_path, {10, 12}, recover=True, **options)
    fit = run._fit

    def killed(checkpoint: Path | None) -> None:
        if run.going_back.path is not None:
            raise KeyboardInterrupt
        fit(checkpoint)

    run._fit = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.start()
    assert int(read_checkpoint(folder).info["step"]) == 8
    assert int(read_checkpoint(folder, use_ema=False).info["step"]) == 8


def test_a_run_goes_back_so_often_and_then_ends(tmp_path: Path) -> None:
    run = _run(tmp_path, set(range(10, 99)), guard={**GUARD, "returns": 2}, checkpoint_every=4)
    with pytest.raises(
        TrainingError, match=r"the run has gone back 2 times\. Files of most bad steps: .*\(\d\)"
    ):
        run.start()


def test_a_run_that_has_ended_so_goes_on_when_the_data_are_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts anew: the bad steps that ended it would end every further start at once."""
    options: dict[str, Any] = {"guard": {**GUARD, "returns": 1}, "checkpoint_every": 4}
    with pytest.raises(TrainingError, match="the run has gone back 1 time\\."):
        _run(tmp_path, set(range(10, 99)), **options).start()
    assert _run(tmp_path, set(), recover=True, **options).start() == 0
    assert "the run had ended after too many bad steps" in caplog.text
    entry = _content(tmp_path)["stable_audio"]
    assert (entry["step"], entry["guard"]["returns"], entry["guard"]["recent"]) == (14, 0, [])


class _BreaksWeights(pl.Callback):
    """Makes a weight infinite once, after a step that nothing was wrong with."""

    broken = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 12 and not self.broken:
            self.broken = True
            with torch.no_grad():
                next(p for p in pl_module.parameters() if p.requires_grad).view(-1)[0] = math.inf


@pytest.mark.parametrize("form", ["file", "shards"])
def test_weights_that_are_no_numbers_replace_no_checkpoint(tmp_path: Path, form: str) -> None:
    """The run goes back to the checkpoint before, which would have been removed."""
    config = tiny_config(guard=GUARD)
    options: dict[str, Any] = {"checkpoint_every": 4, "keep": 1, "checkpoint_format": form}
    run = tiny_run(tmp_path, config, max_steps=18, **options)
    run.trainer.callbacks.insert(0, _BreaksWeights())  # type: ignore[attr-defined]
    assert run.start() == 0
    incidents = json.loads((tmp_path / "run" / "run.json").read_text())["incidents"]
    (refused,) = (each for each in incidents if each["kind"] == "checkpoint not written")
    assert refused["step"] == 12
    assert "the weights hold values that are not finite, in model." in refused["text"]
    assert [each["to"] for each in incidents if each["kind"] == "went back"] == [8]
    tensors = load_file(tmp_path / "run" / "last.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())


def test_without_an_earlier_checkpoint_the_run_ends(tmp_path: Path) -> None:
    run = _run(tmp_path, {10, 11}, guard=GUARD, checkpoint_every=0)
    with pytest.raises(TrainingError, match="there is no checkpoint from before that"):
        run.start()


@pytest.mark.parametrize("form", ["file", "shards"])
def test_the_checkpoint_before_the_last_bad_steps_is_not_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    options = {"guard": GUARD, "checkpoint_every": 4, "keep": 1, "checkpoint_format": form}
    assert _run(tmp_path, {11, 13}, **options).start() == 0
    assert "the run goes back to step 8" in caplog.text
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {p.stem for p in checkpoints.iterdir()} == {"step=00000014"}


def test_a_run_does_not_go_back_to_a_file_that_was_replaced(tmp_path: Path) -> None:
    """`last.ckpt`, from which it was continued, is of a later step than the bad ones."""
    options: dict[str, Any] = {"guard": GUARD, "checkpoint_every": 100, "checkpoint_minutes": 1e-6}
    run = _run(tmp_path, set(), **options)
    step = run.module.training_step

    def fail(*args: Any) -> Tensor:
        if run.module.position == 9:
            raise RuntimeError("lost")
        return step(*args)

    run.module.training_step = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="lost"):
        run.start()
    assert _content(tmp_path)["stable_audio"]["step"] == 9
    again = _run(tmp_path, {10, 12}, recover=True, **options)
    with pytest.raises(TrainingError, match="there is no checkpoint from before that"):
        again.start()


def test_going_back_passes_over_a_damaged_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tiny_run(tmp_path, tiny_config(guard=GUARD), max_steps=12, checkpoint_every=4)
    trained = _spoil(run, {10, 11})
    step = run.module.training_step

    def damaging(*args: Any) -> Tensor:
        if run.module.position == 10:
            run.io.writer.wait()
            (tmp_path / "run" / "checkpoints" / "step=00000008.ckpt").write_bytes(b"nothing")
        return step(*args)

    run.module.training_step = damaging  # type: ignore[method-assign]
    assert run.start() == 0
    assert trained[-8:] == list(range(12, 20))
    assert "goes back to step 4" in caplog.text


def test_null_ends_the_run_with_the_first_bad_step(tmp_path: Path) -> None:
    config = tiny_config()
    config["training"]["guard"] = None
    run = tiny_run(tmp_path, config, max_steps=14)
    _spoil(run, {BAD})
    with pytest.raises(
        TrainingError, match=f"gradient is not finite at step {BAD + 1}; the weights were not changed"
    ):
        run.start()


def test_in_the_first_steps_the_run_ends(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"gradient is not finite at step {FIRST}"):
        _run(tmp_path, {FIRST - 1}).start()


def test_the_usual_norm_is_the_median_of_the_last_good_ones() -> None:
    usual, norms = UsualNorm(), [float(n % 7 + 1) for n in range(COUNT + 9)]
    for n, norm in enumerate(norms):
        limit = usual.limit(torch.tensor(norm), 10.0)
        # torch's median is the lower one of two.
        last = sorted(norms[max(0, n - COUNT) : n])
        assert float(limit) == (math.inf if n < FIRST else 10 * last[(len(last) - 1) // 2])
        usual.add(torch.tensor(norm), torch.tensor(True))
    before = float(usual.limit(torch.tensor(1.0), 10.0))
    usual.add(torch.tensor(math.nan), torch.tensor(False))
    assert math.isfinite(float(usual.limit(torch.tensor(1.0), 10.0)))
    again = UsualNorm()
    again.load_state_dict(json.loads(json.dumps(usual.state_dict())))
    assert again.limit(torch.tensor(1.0), 10.0) == usual.limit(torch.tensor(1.0), 10.0)
    assert float(usual.limit(torch.tensor(1.0), None)) == math.inf
    silent = UsualNorm()
    for _ in range(COUNT):
        silent.add(torch.tensor(0.0), torch.tensor(True))
    assert float(silent.limit(torch.tensor(1.0), 10.0)) == math.inf
    assert before > 0
    bad = UsualNorm()
    for _ in range(COUNT):
        bad.add(torch.tensor(math.nan), torch.tensor(False))
    assert float(bad.limit(torch.tensor(1.0), 10.0)) == math.inf


def test_processes_skip_a_step_together() -> None:
    guard = FiniteGuard(StepLimits())
    watch = {"optimizer": None, "norm": torch.tensor(1.0), "loss": None, "files": ["a"]}
    assert guard.watch(**watch, step=0, agree=lambda flag: flag) is None
    bad = guard.watch(**watch, step=1, agree=lambda flag: flag + 1)
    assert bad is not None
    assert bad.what == "elsewhere"


def test_a_loss_that_the_host_knows_to_have_exploded_is_to_blame() -> None:
    """Though loss and gradient are finite: with several processes only the files of this one are named."""
    guard, one = FiniteGuard(), torch.tensor(1.0)
    bad = guard.watch(None, one, one, step=0, files=["a"], reason="loss has exploded")
    assert bad is not None
    assert (bad.what, bad.reason) == ("loss", "loss has exploded")


@pytest.mark.parametrize(
    "setting",
    [{"spike": 1.0}, {"skips": -1}, {"within": 0}, {"returns": -1}, {"skips": 6, "within": 5}],
    ids=str,
)
def test_limits_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        StepLimits(**setting)
