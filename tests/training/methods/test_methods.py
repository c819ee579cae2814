"""Methods of training that others write: what the base does for them, and what it refuses to lose."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.methods import METHODS
from stable_audio.training.methods.base import Method
from stable_audio.training.methods.diffusion import build_diffusion
from stable_audio.training.optimisation.networks import OptimizerChoice, TrainedNetwork
from tests.training.building import tiny_config, tiny_run

SGD = {"type": "SGD", "config": {"lr": 0.5}}
HALVED = {"type": "ExponentialLR", "config": {"gamma": 0.5}}


class Turns(DiffusionTraining):
    """A diffusion model and a critic that take turns: the second optimizer that is welcome."""

    by_hand = True

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self.critic = nn.Linear(1, 1)
        self.scale = 1.0

    def networks(self) -> list[TrainedNetwork]:
        critic = TrainedNetwork(
            "critic", self.critic, OptimizerChoice(SGD, HALVED), "critic/norm", "critic/lr"
        )
        return [*super().networks(), critic]

    def turn(self, step: int) -> int:
        return step % 2

    def training_step(self, batch: Any, batch_idx: int = 0, draws: Any = None) -> None:  # type: ignore[override]
        loss = super().training_step(batch, batch_idx)
        _, turn = self.step_and_turn()
        self.optimise(self.scale * (self.critic(loss.detach()[None]).square().sum() if turn else loss))


def turns_run(folder: Path, monkeypatch: pytest.MonkeyPatch, cls: type = Turns, **options: Any) -> Any:
    """A run of `cls` in place of the diffusion training."""
    monkeypatch.setitem(METHODS, ("diffusion_cond", "turns"), Method(partial(build_diffusion, cls=cls)))
    return tiny_run(folder, tiny_config(method="turns"), log_every=1, **options)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "run" / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_second_optimizer_past_the_base_is_refused_where_the_class_is_written() -> None:
    with pytest.raises(TrainingError, match=r"Adversarial replaces `configure_optimizers`.*`networks`"):

        class Adversarial(DiffusionTraining):
            """Diffusion with a critic, written as Lightning's documentation says."""

            def __init__(self, model: Any, **options: Any) -> None:
                super().__init__(model, **options)
                self.automatic_optimization = False
                self.critic = nn.Linear(1, 1)

            def configure_optimizers(self) -> Any:
                own = torch.optim.Adam(self.model.parameters(), lr=1e-3)
                theirs = torch.optim.Adam(self.critic.parameters(), lr=1e-3)
                return [own, theirs]

            def training_step(self, batch: Any, batch_idx: int = 0, draws: Any = None) -> None:  # type: ignore[override]
                own, theirs = self.optimizers()
                loss = super().training_step(batch, batch_idx)
                if batch_idx % 2:
                    optimizer, loss = theirs, self.critic(loss.detach()[None]).sum()
                else:
                    optimizer = own
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()


def test_a_mixin_cannot_bring_one_in() -> None:
    class OwnOptimizer:
        def configure_optimizers(self) -> Any:
            raise AssertionError("never called")

    with pytest.raises(TrainingError, match="Mixed replaces `configure_optimizers`"):

        class Mixed(OwnOptimizer, DiffusionTraining):
            pass


def test_other_ways_past_the_base_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Switched(DiffusionTraining):
        def __init__(self, model: Any, **options: Any) -> None:
            super().__init__(model, **options)
            self.automatic_optimization = False

    class Private(Turns):
        def training_step(self, batch: Any, batch_idx: int = 0, draws: Any = None) -> None:  # type: ignore[override]
            self.optimizers()[self.turn(batch_idx)].step()

    class Forgetful(Turns):
        def training_step(self, batch: Any, batch_idx: int = 0, draws: Any = None) -> None:  # type: ignore[override]
            DiffusionTraining.training_step(self, batch).backward()

    class Automatic(Turns):
        by_hand = False

    class Undeclared(Turns):
        def networks(self) -> list[TrainedNetwork]:
            return DiffusionTraining.networks(self)  # type: ignore[return-value]

    class Twice(Turns):
        def training_step(self, batch: Any, batch_idx: int = 0, draws: Any = None) -> None:  # type: ignore[override]
            for _ in range(2):
                super().training_step(batch, batch_idx)

    problems: list[tuple[type, str]] = [
        (Switched, "Switched sets automatic_optimization.*set `by_hand`"),
        (Private, "Private asks for its optimizers; pass the loss of a batch to `optimise`"),
        (Forgetful, "Forgetful is `by_hand`, but no loss of this batch was passed to `optimise`"),
        (Automatic, "Automatic declares 2 networks.*set `by_hand`"),
        (Undeclared, r"Undeclared holds trainable weights.*critic\.weight"),
        (Twice, "Twice calls `optimise`, but takes a second step on one batch"),
    ]
    for cls, words in problems:
        with pytest.raises(TrainingError, match=words):
            turns_run(tmp_path, monkeypatch, cls, name=cls.__name__).start()


def test_networks_that_take_turns_get_all_that_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = turns_run(tmp_path, monkeypatch, max_steps=5, gradient_clip_val=1e-6, accum_batches=2)
    begin = {k: v.detach().clone() for k, v in run.module.critic.named_parameters()}
    updates: list[int] = []
    monkeypatch.setattr(run.module.ema, "update", lambda: updates.append(run.trainer.global_step))
    assert run.start() == 0
    assert run.module.position == 10
    assert updates == [1, 3, 5]  # after the steps of the diffusion model
    logged = rows(tmp_path)
    # Each network's norm and schedule stand in the rows of its own steps.
    assert [bool(row["critic/norm"]) for row in logged] == [False, True, False, True, False]
    assert [float(row["critic/lr"]) for row in logged if row["critic/lr"]] == [0.5, 0.25]
    assert all(float(row["train/grad_norm"]) > 0 for row in logged[::2])
    # SGD at 0.5 and 0.25 on gradients of norm 1e-6 goes 0.75e-6 at most; without clipping much further.
    moved = torch.cat([(v - begin[k]).flatten() for k, v in run.module.critic.named_parameters()]).norm()
    assert 0 < moved <= 0.75e-6 * 1.2


@pytest.mark.parametrize("bad", [0, 1])
def test_the_finite_check_guards_every_network(
    bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = turns_run(tmp_path, monkeypatch, max_steps=4)
    step = run.module.training_step

    def spoilt(batch: Any, batch_idx: int = 0) -> None:
        run.module.scale = float("nan") if run.trainer.global_step == bad else 1.0
        step(batch, batch_idx)

    monkeypatch.setattr(run.module, "training_step", spoilt)
    with pytest.raises(TrainingError, match=rf"loss is not finite at step {bad + 1}.*Files of this step"):
        run.start()
    assert all(bool(torch.isfinite(p).all()) for p in run.module.parameters())


def test_turns_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = turns_run(tmp_path / "a", monkeypatch, max_steps=7)
    torch.nn.init.constant_(whole.module.critic.weight, 0.5)
    torch.nn.init.constant_(whole.module.critic.bias, 0.1)
    whole.start()
    part = turns_run(tmp_path / "b", monkeypatch, max_steps=4)
    part.module.critic.load_state_dict({"weight": torch.tensor([[0.5]]), "bias": torch.tensor([0.1])})
    part.start()
    again = turns_run(tmp_path / "b", monkeypatch, max_steps=7, recover=True)
    assert again.start() == 0
    expected = whole.module.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.module.state_dict().items())
    assert rows(tmp_path / "a")[-1]["critic/lr"] == rows(tmp_path / "b")[-1]["critic/lr"]
    assert all(torch.equal(v, whole.module.ema.average[k]) for k, v in again.module.ema.average.items())


def test_steps_are_shared_as_turns_say() -> None:
    config = load_config(tiny_config())
    module = Turns(create_model_from_config(config), optimizer=SGD, scheduler=HALVED)
    assert [(s.name, s.steps) for s in module.schedules(7)] == [("diffusion", 4), ("critic", 3)]
    assert [s.steps for s in module.schedules(-1)] == [-1, -1]


def test_a_method_that_the_model_type_lacks_is_refused(tmp_path: Path) -> None:
    message = r"\$\.training\.method: found 'turns', but diffusion_cond is trained by diffusion"
    with pytest.raises(TrainingError, match=message):
        tiny_run(tmp_path, tiny_config(method="turns"))
