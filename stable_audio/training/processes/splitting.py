"""Weights, gradients, optimizer and average split over the processes of a run: PyTorch's FSDP2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.device_dtype_mixin import _update_properties
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.shards import Like, read_shards
from stable_audio.optim.split import is_split, like_split, local, own_rows
from stable_audio.stored.shards_folder import is_shards
from stable_audio.training.processes.gathering import whole, whole_values
from stable_audio.training.processes.sharding import Sharding
from stable_audio.wording import plural

FSDP, HSDP = "fsdp", "hsdp"
SPLITTING = (FSDP, HSDP)
"""Strategies that split weights, for `--strategy`."""


def group_advice(processes: int) -> str:
    """What to do where groups of the size found cannot share the processes of a run, for a message.

    Args:
        processes: of the run.
    """
    sizes = [str(size) for size in range(2, processes // 2 + 1) if processes % size == 0]
    others = f"--strategy {FSDP} (one group) or ddp (a copy for each)"
    if not sizes:
        found = plural(processes, "process")
        return f"no --shard-size fits {found}; use {others}, or start another number of them"
    listed = " or ".join(filter(None, (", ".join(sizes[:-1]), sizes[-1])))
    return f"give --shard-size {listed}, or use {others}"


class SplitWeights(ModelParallelStrategy):
    """Every process keeps a part of each weight, and a whole block while it computes.

    Files hold whole weights: all processes gather them, and one writes.

    Args:
        gathers: checkpoints hold whole weights; otherwise each process has its parts of them.
        shard_size: processes that share one copy of the model; None: all. Several groups of processes have a
            copy each, and average their gradients.
        cpu_offload: see `Sharding`.
    """

    def __init__(
        self, *, gathers: bool = True, shard_size: int | None = None, cpu_offload: bool = False
    ) -> None:
        # Gradients in host memory are reduced there.
        backend = "cpu:gloo,cuda:nccl" if cpu_offload and torch.cuda.is_available() else None
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=backend
        )
        self.gathers, self.shard_size, self.cpu_offload = gathers, shard_size, cpu_offload

    def setup_environment(self) -> None:
        """Meet the other processes and arrange them in rows, of which each has the whole model."""
        self._setup_distributed()
        shape: tuple[int, ...] = (self.world_size,)
        if self.shard_size is not None:
            shape = (self.world_size // self.shard_size, self.shard_size)
        self._device_mesh = torch.distributed.device_mesh.init_device_mesh(
            self.root_device.type, shape, mesh_dim_names=("replicas", "parts")[-len(shape) :]
        )
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    @property
    def sharding(self) -> Sharding:
        """How the weights of the run are split, once the processes have met."""
        return Sharding(mesh=self.device_mesh, cpu_offload=self.cpu_offload)

    def model_to_device(self) -> None:
        """Move the model, but for parts of weights that rest in host memory."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        _update_properties(self.model, device=self.root_device)
        self.model._apply(lambda tensor: tensor if is_split(tensor) else tensor.to(self.root_device))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """As other strategies do: a file is read by every process, whole. Of a checkpoint in parts each
        process reads what it needs."""
        path = Path(self.broadcast(checkpoint_path))
        if is_shards(path):
            return read_shards(path, like=self._layouts(), verify=False)
        return self.checkpoint_io.load_checkpoint(path)

    def _layouts(self) -> Like:
        """How what a checkpoint holds is split here: as the weights that it belongs to."""
        assert self.model is not None
        weights = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        alike = {f"state_dict/{name}": tensor for name, tensor in weights.items()}
        for name, tensor in weights.items():
            alike[f"{TRAINING_ENTRY}/ema/average/{name.removeprefix('model.')}"] = tensor
        for number, optimizer in enumerate(self.optimizers):
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            alike.update({f"optimizer_states/{number}/state/{i}": p.detach() for i, p in enumerate(trained)})

        def like(key: str, size: torch.Size, dtype: torch.dtype) -> Tensor | None:
            found = alike.get(key)
            tensor = found if found is not None else alike.get(key.rpartition("/")[0])
            if is_split(tensor) and tensor.shape == size:
                return torch.zeros_like(tensor, dtype=dtype)
            weight = alike.get(key.rpartition("/")[0].rpartition("/")[0])
            if is_split(weight) and len(size) == 2 and size[0] == weight.shape[0]:  # averages in few bits
                part = local(weight)
                return like_split(weight, part.new_zeros(len(part), size[1], dtype=dtype))
            return None

        return like

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights, on the first process, or the parts of this one."""
        assert self.model is not None
        # torch's function for it reads every weight by its name, which a layer with adapters computes then.
        return whole(self.model.state_dict()) if self.gathers else self.model.state_dict()

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        """Take whole weights, of which every process keeps its part, or parts."""
        assert self.model is not None
        own = self.model.state_dict()
        parts = {name: _part_of(own.get(name), value) for name, value in checkpoint["state_dict"].items()}
        self.model.load_state_dict(parts, strict=strict)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimizers are restored from the checkpoint after callbacks have seen it."""
        return True

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The whole state of an optimizer on the first process, or the parts of this process."""
        state = dict(getattr(optimizer, "_optimizer", optimizer).state_dict())
        if self.gathers:
            # In the same order on every process.
            state["state"] = {n: whole_values(state["state"][n]) for n in sorted(state["state"])}
        return state

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Take the whole state of each optimizer, of which every process keeps its part, or parts."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"]):
            optimizer.load_state_dict(parts_of_state(optimizer, state))


def parts_of_state(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer, in which tensors of the shape of a split weight are split like it."""
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    weights = dict(zip(numbers, (p for group in optimizer.param_groups for p in group["params"])))

    def part(number: int, value: Any) -> Any:
        weight = weights.get(number)
        return _part_of(weight, value, copy=True)  # so that what is left of the whole can be let go of

    stored = state["state"].items()
    return {**state, "state": {n: {k: part(n, v) for k, v in values.items()} for n, values in stored}}


def _part_of(weight: Tensor | None, value: Any, *, copy: bool = False) -> Any:
    """What this process has of a whole tensor of the shape of a split weight; else the value as it is."""
    if not is_split(weight) or is_split(value) or not isinstance(value, Tensor):
        return value
    if value.shape != weight.shape:
        return value
    return like_split(weight, own_rows(weight, value).to(local(weight).device, copy=copy))


def measured(norm: Tensor) -> Tensor:
    """The norm of gradients that are split, on every process."""
    return norm.full_tensor() if is_split(norm) else norm


def are_split(module: nn.Module) -> bool:
    """Whether processes have parts of its weights only."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(part, FSDPModule) for part in module.modules())
