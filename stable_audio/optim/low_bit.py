"""Adam and AdamW of torchao: averages in 8 bits, 4 bits or float8, and bfloat16 weights rounded at random."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from stable_audio.data.seeding import derive_seed, seed_draws_on
from stable_audio.optim.low_bit_averages import AVERAGES, plain_parts, rows_have_blocks, stored_average
from stable_audio.optim.split import is_split, local, share_of
from stable_audio.optim.torchao_classes import computed_by_torchao


class LowBitAdam(Optimizer):
    """Base of the optimizers that torchao computes.

    Averages of weights with fewer than 4096 numbers, or with a number that is no multiple of `block_size`,
    stay as they are (Dettmers et al. 2022, arXiv:2110.02861). torchao compiles the step for every shape of
    weight; on a CPU, where this takes minutes, it is not compiled. States for checkpoints are plain tensors,
    which need no torchao to be read.

    With `bf16_stochastic_round`, weights in bfloat16 are rounded up or down at random, so that updates which
    are too small for 8 bits of precision are right on average. The draws depend on the number of the step and
    of the weight alone, the same in every process.

    Of weights that are split over processes each has the averages of its rows. They are the numbers of one
    process where rows are multiples of a block; other weights have their averages as they are. The random
    rounding then depends on the number of the part, too.

    Args:
        params: the weights, or groups of them.
        lr: learning rate.
        betas: decays of the averages of the gradient and of its square.
        eps: is added to the root of the latter.
        weight_decay: share of the weights that is taken away per step, times lr.
        amsgrad: divide by the greatest average so far.
        block_size: numbers that share a scale; None: torchao's, 256, for 4 bits 128.
        bf16_stochastic_round: None: that of the class.

    Attributes:
        torchao_name: class of `torchao.optim`.
        has_blocks: whether averages are held in blocks.
        rounds_at_random: whether weights in bfloat16 are rounded at random unless an option says so.

    Raises:
        ValueError: an option of another type, or blocks of a class without.
        ImportError: torchao is not installed, or too old.
    """

    torchao_name: ClassVar[str]
    has_blocks: ClassVar[bool] = True
    rounds_at_random: ClassVar[bool] = False
    bf16_stochastic_round: bool

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        block_size: int | None = None,
        bf16_stochastic_round: bool | None = None,
    ) -> None:
        rounds = self.rounds_at_random if bf16_stochastic_round is None else bf16_stochastic_round
        own: dict[str, Any] = {"bf16_stochastic_round": rounds}
        if block_size is not None:
            own["block_size"] = self._checked(block_size)
        if not isinstance(rounds, bool):
            raise ValueError(f"bf16_stochastic_round must be true or false, found {rounds!r}")
        kind: Any = type(self)
        self.__class__ = computed_by_torchao(kind)  # whose bases go on with the class of torchao
        upward: Any = super()
        upward.__init__(params, lr, betas, eps, weight_decay, amsgrad, **own)
        weights = [p for group in self.param_groups for p in group["params"]]
        self._numbers = {id(p): number for number, p in enumerate(weights)}
        self._wholes: dict[int, Tensor] = {}

    def _checked(self, block_size: int) -> int:
        if not self.has_blocks:
            raise ValueError(f"{type(self).__name__} holds no averages in blocks; leave block_size out")
        if not isinstance(block_size, int) or block_size < 1:
            raise ValueError(f"block_size must be a number from 1 on, found {block_size!r}")
        return block_size

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        on_cpu = all(p.device.type == "cpu" for p in moving)
        with _uncompiled() if on_cpu else nullcontext(), self._on_own_rows():
            if self.bf16_stochastic_round and any(p.dtype is torch.bfloat16 for p in moving):
                self._step_one_by_one({p.device.index for p in moving if p.device.type == "cuda"})
            else:
                super().step()
        return loss

    @contextmanager
    def _on_own_rows(self) -> Iterator[None]:
        """Context in which this process's rows stand for weights that are split: every number steps alone."""
        groups, rows = self.param_groups, {}
        for p in (p for group in groups for p in group["params"] if is_split(p)):
            rows[p] = part = local(p).detach()
            part.grad = None if p.grad is None else local(p.grad)
            self._wholes[id(part)] = p
            if p in self.state:
                self.state[part] = self.state.pop(p)
        if not rows:
            yield
            return
        self.param_groups = [{**g, "params": [rows.get(p, p) for p in g["params"]]} for g in groups]
        try:
            yield
        finally:
            self.param_groups = groups
            self._wholes = {}
            for p, part in rows.items():
                if part in self.state:
                    self.state[p] = self.state.pop(part)

    def _new_buffer(self, p: Tensor, signed: bool) -> Tensor:
        """An average of zeros, of a split weight for this process's rows `p`."""
        torchao: Any = super()
        weight = self._wholes.get(id(p), p)
        if not is_split(weight):
            return torchao._new_buffer(p, signed)
        size: Any = self.block_size  # type: ignore[attr-defined]
        if not rows_have_blocks(weight, size):
            return torch.zeros_like(p)
        return torchao._subclass_zeros(p, signed, size)

    def _step_one_by_one(self, gpus: Collection[int]) -> None:
        """Weights draw from a generator of their own, whichever others step with them."""
        groups = self.param_groups
        try:
            with torch.random.fork_rng(sorted(gpus)):
                for group in groups:
                    for p in group["params"]:
                        if p.grad is not None:
                            weight = self._wholes.get(id(p), p)
                            taken = int(self.state[p]["step"]) if self.state[p] else 0
                            part = (share_of(weight).index,) if is_split(weight) else ()
                            seed = derive_seed("rounding", self._numbers[id(weight)], taken, *part)
                            seed_draws_on(p.device, seed)
                            self.param_groups = [{**group, "params": [p]}]
                            super().step()
        finally:
            self.param_groups = groups

    def state_dict(self) -> dict[str, Any]:
        """The state in plain tensors: an average in few bits is a dictionary of its parts (`plain_parts`)."""
        state = super().state_dict()
        weights = [p for group in self.param_groups for p in group["params"]]
        stored = state["state"].items()
        plain = {n: {k: plain_parts(v, weights[n]) for k, v in values.items()} for n, values in stored}
        return {**state, "state": plain}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        whole, few = {}, {}
        for number, values in state_dict["state"].items():
            few[number] = {k: v for k, v in values.items() if isinstance(v, Mapping)}
            whole[number] = {k: v for k, v in values.items() if k not in few[number]}
        super().load_state_dict({**state_dict, "state": whole})
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        weights = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, weights):
            for key, value in (*self.state.get(p, {}).items(), *few.get(number, {}).items()):
                if key in AVERAGES:
                    self.state[p][key] = self._average_of(p, key, value)
        for group in self.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)

    def _average_of(self, p: Tensor, key: str, value: Tensor | Mapping[str, Tensor]) -> Tensor:
        torchao: Any = self
        own, signed = local(p).detach(), key == "exp_avg"
        self._wholes = {id(own): p}
        try:
            average = self._new_buffer(own, signed)
        finally:
            self._wholes = {}
        return stored_average(
            average, value, p, empty=lambda like, size: torchao._subclass_zeros(like, signed, size)
        )


class AdamW8bit(LowBitAdam):
    """AdamW with averages of 8 bits, in blocks."""

    torchao_name = "AdamW8bit"


class AdamW4bit(LowBitAdam):
    """AdamW with averages of 4 bits, in blocks."""

    torchao_name = "AdamW4bit"


class AdamWFp8(LowBitAdam):
    """AdamW with averages in float8, in blocks; on a GPU from compute capability 8.9 on."""

    torchao_name = "AdamWFp8"


class AdamWBF16(LowBitAdam):
    """AdamW for weights in bfloat16 (`--precision bf16-true`), rounded at random; averages have 16 bits."""

    torchao_name = "_AdamW"
    has_blocks = False
    rounds_at_random = True


@contextmanager
def _uncompiled() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield
