"""Optimizer steps of every training: turns of networks, accumulation, clipping, checks, LR schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stable_audio.optim.step_limits import StepLimits
from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.explosion import Explosion
from stable_audio.training.optimisation.building import network_optimizer, network_scheduler
from stable_audio.training.optimisation.declared import OWNED, DeclaredModule, refuse_replaced
from stable_audio.training.optimisation.gradient_release import GradientRelease
from stable_audio.training.processes.splitting import measured
from stable_audio.training.speed.clock import StepClock


class OptimisedModule(DeclaredModule):
    """Optimises the networks that a subclass declares, by Lightning or by hand, with the same checks.

    A subclass declares `networks`. With one network, Lightning steps on the loss that `training_step`
    returns. Several networks take turns: the subclass sets `by_hand`, returns in `turn` which network a step
    belongs to, and passes the loss of every batch to `optimise`. Either way the gradient norm is logged and
    clipped, a step whose loss or gradient is not finite, or a spike, does not change the weights, and LR
    schedules count the steps of their own network, skipped ones too. Subclasses cannot replace these methods
    (`OWNED`).

    Attributes:
        watches_explosion: a loss that explodes is bad, too; the host waits for the first losses of each
            network, by which that is told.
        no_float16: why 16-mixed is refused.
        accum_batches: batches per step with `by_hand`; otherwise Lightning's trainer counts them.
        run_steps: steps of the run, -1 = no end; LR schedules without a length follow it.
        rate_factors: id of a weight -> factor of its learning rate; 1 where there is none.
        moved: index in `networks` of the network that stepped on the current batch, or None.
        clock: times the parts of steps while a run logs them.
        on_values: called when all values of a step are recorded, before its optimizer steps; or None.

    Args:
        gradient_clip_val: maximum gradient norm, 0 = no clipping.
        gradient_release: step on each weight in the backward pass and free its gradient; see
            `GradientRelease`. Not with `by_hand`. Spikes are then not told.
        limits: how many bad steps are skipped; None: the first one ends the run.
    """

    watches_explosion: ClassVar[bool] = False
    no_float16: ClassVar[str] = "networks that take turns are not trained in float16"
    accum_batches: int = 1
    run_steps: int = -1
    rate_factors: Mapping[int, float] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_replaced(cls, of=OptimisedModule)

    def __init__(
        self,
        *,
        gradient_clip_val: float = 0.0,
        gradient_release: bool = False,
        limits: StepLimits | None = None,
    ) -> None:
        super().__init__(limits=limits)
        if gradient_release and (self.by_hand or gradient_clip_val > 0):
            why = "several networks take turns" if self.by_hand else "the gradient is clipped"
            raise TrainingError(f"{type(self).__name__} cannot release gradients, since {why}")
        self.gradient_clip_val = gradient_clip_val
        self.gradient_release = gradient_release
        self._release: GradientRelease | None = None
        self._exploded = ""
        self.moved: int | None = None
        self.clock = StepClock()
        self.on_values: Callable[[], None] | None = None
        self._accumulated = 0
        self._worst: Tensor | None = None
        self._received = False
        self._explosions: dict[int, Explosion] = {}
        self._schedulers: list[Any] = []
        self._stored_schedulers: Sequence[Any] = ()

    @property
    def automatic_optimization(self) -> bool:
        """Whether Lightning takes the steps."""
        return not self.by_hand

    @automatic_optimization.setter
    def automatic_optimization(self, value: bool) -> None:
        if value is self.by_hand:
            raise TrainingError(
                f"{type(self).__name__} sets automatic_optimization, by which a run would lose its gradient "
                "clipping, its checks, its LR schedule or its average; "
                f"{OWNED['automatic_optimization']} and {OWNED['optimizers']}"
            )

    def configure_optimizers(self) -> Any:
        """One optimizer per network, and LR schedulers that step with their own network.

        Raises:
            TrainingError: a network has no trainable weights, or trainable weights belong to no network.
        """
        self.configure_networks()
        networks = self.networks()
        self.refuse_strays(networks)
        lengths = [schedule.steps for schedule in self.schedules(self.run_steps)]
        precision = self._precision()
        optimizers = [network_optimizer(n, self.rate_factors, precision=precision) for n in networks]
        if self.gradient_release:
            if self._release is not None:  # of the fit before this one
                self._release.remove()
            self._release = GradientRelease(optimizers[0])
        schedulers = [network_scheduler(*each) for each in zip(networks, optimizers, lengths)]
        if self.by_hand:
            self._schedulers = schedulers
            return optimizers
        if schedulers[0] is None:
            return {"optimizer": optimizers[0]}
        return {
            "optimizer": optimizers[0],
            "lr_scheduler": {"scheduler": schedulers[0], "interval": "step"},
        }

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Raise TrainingError: without `optimise`, steps would be neither clipped, checked nor scheduled."""
        raise TrainingError(
            f"{type(self).__name__} asks for its optimizers; {OWNED['optimizers']}, which accumulates, "
            "clips, checks and steps"
        )

    def optimise(self, loss: Tensor) -> None:
        """Back-propagate the loss () of a batch of the network whose turn it is, and after every
        `accum_batches` batches check, clip and step.

        Raises:
            TrainingError: a bad step ends the run.
        """
        if not self.by_hand or self._received:
            problem = "takes a second step on one batch" if self.by_hand else "is not `by_hand`"
            raise TrainingError(f"{type(self).__name__} calls `optimise`, but {problem}")
        _, turn = self.step_and_turn()
        self._received = True
        self.manual_backward(loss / self.accum_batches)
        size = loss.detach().abs()
        self._worst = size if self._worst is None else torch.maximum(self._worst, size)
        self._accumulated += 1
        if self._accumulated == self.accum_batches:
            self._step(turn)

    def step_and_turn(self) -> tuple[int, int]:
        """Number of the current step and index of its network, with `by_hand`.

        Raises:
            TrainingError: the precision is float16.
        """
        if self._precision() == "16-mixed":
            raise TrainingError(f"{self.no_float16}; use --precision bf16-mixed or 32")
        step = self.trainer.global_step
        return step, self.turn(step)

    def begin_step(self) -> None:
        """Called before a batch."""
        self._received, self.moved = False, None

    def on_before_backward(self, loss: Tensor) -> None:
        """Lightning calls this before every backward pass: with released gradients weights step in it."""
        if self._release is None:
            return
        self.before_step()
        self._loss = loss.detach()
        self._exploded = self._explosion_reason(0)
        self._release.begin(loss, bad=bool(self._exploded))

    def _end_release(self, release: GradientRelease) -> None:
        norm = release.finish()
        self.record({self.networks()[0].norm_label: norm})
        self.check_step(norm, reason=self._exploded, stepped=True, torn=release.is_torn)

    def settle_checks(self) -> None:
        if self._release is not None and self._release.is_torn:
            raise TrainingError("the last step is not complete: some of the weights have taken it")
        super().settle_checks()

    def end_step(self, *, stepped: bool) -> int | None:
        """Called after a batch; returns the index of the network that stepped on it, None while accumulating.

        Raises:
            TrainingError: the loss of the batch was not passed to `optimise`.
        """
        if not self.by_hand:
            self.moved = 0 if stepped else None
        elif not self._received:
            raise TrainingError(
                f"{type(self).__name__} is `by_hand`, but no loss of this batch was passed to `optimise`"
            )
        return self.moved

    def _step(self, index: int) -> None:
        with self.clock.part("optimizer"):
            self._take_step(index)

    def _take_step(self, index: int) -> None:
        network, optimizers = self.networks()[index], super().optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        optimizer: Any = optimizers[index]
        self._loss, self._worst, self._accumulated = self._worst, None, 0
        self._check_and_clip(index, optimizer)
        if network.rate_label is not None:
            self.record({network.rate_label: float(optimizer.param_groups[0]["lr"])})
        self._values_are_recorded()
        optimizer.step()
        for each in optimizers:  # a loss may have reached the others, too
            each.zero_grad()
        if (scheduler := self._schedulers[index]) is not None:
            scheduler.step()
        self.moved = index

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Check the loss, measure and check the gradient norm, clip. Lightning calls this every step."""
        self._check_and_clip(0, optimizer)
        self._values_are_recorded()

    def _values_are_recorded(self) -> None:
        if self.on_values is not None:
            self.on_values()

    def _check_and_clip(self, index: int, optimizer: Any) -> None:
        if self._release is not None:
            self._end_release(self._release)
            return
        self.before_step()
        limit = self._explosion(index).limit if self.watches_explosion else math.inf
        reason = self._explosion_reason(index) if limit is None else ""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.gradient_clip_val > 0:
            norm = nn.utils.clip_grad_norm_(parameters, self.gradient_clip_val)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = measured(norm)
        self.record({self.networks()[index].norm_label: norm})
        stepping = None if limit is None else getattr(optimizer, "optimizer", optimizer)
        most = math.inf if limit is None else limit
        if self.check_step(norm, stepping, network=index, reason=reason, loss_limit=most):
            for parameter in parameters:  # optimizers leave weights without a gradient alone
                parameter.grad = None

    def _explosion_reason(self, index: int) -> str:
        """Why the loss makes the step bad, where the host looks at it; else ""."""
        if not self.watches_explosion or self._loss is None:
            return ""
        return self._explosion(index).reason(float(self._loss))

    # State for checkpoints.

    def optimising_state(self) -> dict[str, Any]:
        """States of LR schedulers that Lightning does not handle, and of the checks of steps."""
        state: dict[str, Any] = {"guard": self.guard.state_dict()}
        if self.by_hand:
            state["schedulers"] = [s.state_dict() if s is not None else None for s in self._schedulers]
        if self.watches_explosion:
            explosions = [self._explosion(i).state_dict() for i in range(len(self.networks()))]
            state.update({"explosions": explosions} if self.by_hand else {"explosion": explosions[0]})
        return state

    def load_optimising_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `optimising_state`; schedulers do so in `begin_fit`, once they exist."""
        self._stored_schedulers = state.get("schedulers") or ()
        if "guard" in state:
            self.guard.load_state_dict(state["guard"])
        alone = [state["explosion"]] if "explosion" in state else []
        for index, stored in enumerate(state.get("explosions") or alone):
            self._explosion(index).load_state_dict(stored)

    def begin_fit(self) -> None:
        """Called before the first batch, when the optimizers exist: restore the schedulers."""
        stored, self._stored_schedulers = self._stored_schedulers, ()
        for scheduler, state in zip(self._schedulers, stored):
            if scheduler is not None and state is not None:
                scheduler.load_state_dict(state)

    def _explosion(self, index: int) -> Explosion:
        return self._explosions.setdefault(index, Explosion())
