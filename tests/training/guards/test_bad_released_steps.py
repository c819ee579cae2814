"""Bad steps of runs that release gradients: skipped as ordinary ones are, or the run goes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation import gradient_release
from stable_audio.training.optimisation.gradient_release import GradientRelease
from stable_audio.training.trainer import Run
from tests.training.building import tiny_config, tiny_run

BAD = 11
"""Batch that is bad, behind the first ten, which end a run."""


def _bad_at(run: Run, batch: int, spoil: Callable[[Tensor], Tensor]) -> None:
    original = run.module.training_step

    def training_step(*args: Any) -> Tensor:
        loss = original(*args)
        return spoil(loss) if run.module.position == batch else loss

    run.module.training_step = training_step  # type: ignore[method-assign]


def _spoiling(run: Run, weight: int) -> Callable[[Tensor], Tensor]:
    """Makes the gradient of a weight infinite in one backward pass, and leaves the loss as it is."""
    parameter = [p for p in run.module.model.parameters() if p.requires_grad][weight]

    def spoil(loss: Tensor) -> Tensor:
        hook = parameter.register_hook(lambda grad: (hook.remove(), grad * float("inf"))[1])
        return loss

    return spoil


def _run(folder: Path, name: str, *, released: bool, guard: Any = None, **options: Any) -> Run:
    training = {"gradient_release": released, **({} if guard is None else {"guard": guard})}
    return tiny_run(folder, tiny_config(**training), **{"name": name, "max_steps": 14, **options})


def test_a_loss_that_is_not_finite_changes_no_weight(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_config(gradient_release=True), max_steps=4)
    _bad_at(run, 2, lambda loss: loss * float("nan"))
    with pytest.raises(TrainingError, match="loss is not finite at step 3; the weights were not changed"):
        run.start()
    tiny_run(tmp_path, tiny_config(gradient_release=True), name="good", max_steps=2).start()
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 2
    _same_weights(tmp_path / "run", tmp_path / "good")


def _same_weights(a: Path, b: Path) -> None:
    first, second = (load_torch_file(f / "last.ckpt")["state_dict"] for f in (a, b))
    assert all(torch.equal(first[k], second[k]) for k in second)


def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny_run(tmp_path, tiny_config(gradient_release=True), max_steps=4, checkpoint_every=2)
    backbone = run.module.model.backbone
    last = next(p for p in backbone.parameters() if p.requires_grad)

    def spoil(loss: torch.Tensor) -> torch.Tensor:
        last.register_hook(lambda grad: grad * float("inf"))
        return loss

    _bad_at(run, 3, spoil)
    with pytest.raises(
        TrainingError, match=r"gradient is not finite at step 4; .*continue from the last checkp"
    ):
        run.start()
    assert "no checkpoint of the failed run" in caplog.text
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 2


def test_a_loss_that_is_not_finite_is_skipped_as_without_release(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for released in (False, True):
        run = _run(tmp_path, str(released), released=released)
        _bad_at(run, BAD, lambda loss: loss * float("nan"))
        assert run.start() == 0
    said = f"loss is not finite at step {BAD + 1}; the step is skipped, the weights were not changed"
    assert said in caplog.text
    _same_weights(tmp_path / "True", tmp_path / "False")


def test_a_run_goes_back_to_before_a_step_that_some_weights_have_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The ordinary run goes back at its first bad step, too, and both go on with the batches behind it.
    ordinary = _run(tmp_path, "ordinary", released=False, guard={"skips": 0}, checkpoint_every=4)
    _bad_at(ordinary, BAD, lambda loss: loss * float("nan"))
    assert ordinary.start() == 0
    caplog.clear()
    run = _run(tmp_path, "released", released=True, checkpoint_every=4)
    _bad_at(run, BAD, _spoiling(run, 0))
    assert run.start() == 0
    assert (
        f"some of the weights have taken step {BAD + 1}, which is bad; the run goes back to step 8"
        in caplog.text
    )
    _same_weights(tmp_path / "released", tmp_path / "ordinary")
    content = load_torch_file(tmp_path / "released" / "last.ckpt")["stable_audio"]
    assert (content["step"], content["guard"]["returns"]) == (14, 1)


def test_a_torn_step_without_an_earlier_checkpoint_ends_the_run(tmp_path: Path) -> None:
    run = _run(tmp_path, "run", released=True, checkpoint_every=0)
    _bad_at(run, BAD, _spoiling(run, 0))
    with pytest.raises(TrainingError, match=rf"taken step {BAD + 1}, which is bad, and there is no"):
        run.start()


class _Net:
    """Three weights in a row, whose gradients come from the last to the first."""

    def __init__(self, *, fused: bool) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(3)])
        optimizer = AdamW(self.net.parameters(), lr=0.1, fused=fused)
        self.release = GradientRelease(optimizer)
        self.step()

    def step(self, factor: float = 1.0, *, bad: int | None = None) -> list[bool]:
        """Take a step; returns which weights changed. The gradient of weight `bad` is infinite."""
        before = [p.detach().clone() for p in self.net.parameters()]
        loss = self.net(torch.ones(2, 4)).square().sum() * factor
        weights = [*self.net.parameters()]
        hook = None if bad is None else weights[bad].register_hook(lambda grad: grad * float("inf"))
        self.release.begin(loss)
        loss.backward()
        self.norm = self.release.finish()
        if hook is not None:
            hook.remove()
        assert all(p.grad is None for p in weights)
        return [not torch.equal(a, p) for a, p in zip(before, weights)]


@pytest.mark.parametrize("on_the_device", [False, True])
def test_no_weight_steps_from_the_first_bad_gradient_on(
    on_the_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fused optimizers of the CPU skip steps as those of a GPU.
    monkeypatch.setattr(gradient_release, "skips_by_itself", lambda optimizer, norm: on_the_device)
    net = _Net(fused=on_the_device)
    assert (net.step(float("nan")), net.release.is_torn) == ([False] * 3, False)
    assert (net.step(bad=2), net.release.is_torn) == ([False] * 3, False)
    assert (net.step(bad=1), net.release.is_torn) == ([False, False, True], True)
    assert not torch.isfinite(net.norm)
    assert (net.step(), net.release.is_torn) == ([True] * 3, False)


def test_removed_hooks_leave_the_gradient_alone() -> None:
    weight = nn.Parameter(torch.ones(2))
    GradientRelease(AdamW([weight])).remove()
    weight.sum().backward()
    assert weight.grad is not None
    assert weight.tolist() == [1, 1]
