"""What a training declares of its optimizer steps: its networks, whose turn it is, and what they learn by."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import ClassVar

from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.checks import CheckedModule
from stable_audio.training.optimisation.networks import Schedule, TrainedNetwork

OWNED = {
    "configure_optimizers": "declare what is trained in `networks`",
    "configure_gradient_clipping": "pass gradient_clip_val to the constructor",
    "optimizers": "pass the loss of a batch to `optimise`",
    "optimizer_step": "pass the loss of a batch to `optimise`",
    "lr_scheduler_step": "give the network a scheduler in `networks`",
    "automatic_optimization": "set `by_hand` in the class",
    "on_before_backward": "change the loss before it is returned or passed to `optimise`",
    "optimise": "change the loss before it is passed to it",
}
"""Methods that subclasses must not replace, or lose clipping, checks or schedules -> what to do instead."""


def refuse_replaced(cls: type, *, of: type) -> None:
    """Refuse a class that has its own one of the methods in `OWNED`.

    Args:
        of: the class whose methods they are.

    Raises:
        TrainingError: it replaces one.
    """
    for name, instead in OWNED.items():
        if inspect.getattr_static(cls, name) is not inspect.getattr_static(of, name):
            raise TrainingError(
                f"{cls.__name__} replaces `{name}`, by which a run would lose its gradient clipping, its "
                f"checks, its LR schedule or its average; {instead}"
            )


class DeclaredModule(CheckedModule):
    """Says which networks it trains, and when each of them steps.

    Attributes:
        by_hand: whether `training_step` passes its loss to `optimise` instead of returning it.
    """

    by_hand: ClassVar[bool] = False

    def networks(self) -> Sequence[TrainedNetwork]:
        """The networks to train; the weights of the first one are averaged."""
        raise NotImplementedError

    def turn(self, step: int) -> int:
        """Index in `networks` of the network that step number `step` belongs to."""
        return 0

    def configure_networks(self) -> None:
        """Called before optimizers are built, to unfreeze networks that steps have frozen."""

    def before_step(self) -> None:
        """Called when the gradients of a step are there, before an optimizer changes weights."""

    def schedules(self, steps: int) -> list[Schedule]:
        """The LR schedules, with the steps that each takes in a run of `steps`; -1 = no end, for all."""
        networks = self.networks()
        shares = [steps] * len(networks)
        if len(networks) > 1 and steps >= 0:
            shares = [0] * len(networks)
            for step in range(steps):
                shares[self.turn(step)] += 1
        return [Schedule(n.name, n.choice.scheduler, share) for n, share in zip(networks, shares)]

    def refuse_strays(self, networks: Sequence[TrainedNetwork]) -> None:
        """Refuse several networks without `by_hand`, and trainable weights that no network has.

        Raises:
            TrainingError: there is one of these.
        """
        if len(networks) > 1 and not self.by_hand:
            raise TrainingError(
                f"{type(self).__name__} declares {len(networks)} networks, which take turns; "
                f"{OWNED['automatic_optimization']} and {OWNED['optimizers']}"
            )
        trained = {id(p) for network in networks for p in network.module.parameters()}
        strays = [k for k, p in self.named_parameters() if p.requires_grad and id(p) not in trained]
        if strays:
            raise TrainingError(
                f"{type(self).__name__} holds trainable weights that no network in `networks` has: "
                f"{', '.join(strays[:3])}; declare the network that they belong to, or freeze them"
            )
