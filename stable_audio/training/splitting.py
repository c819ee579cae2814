"""Weights, gradients, optimizer and average split over the processes of a run: PyTorch's FSDP2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.device_dtype_mixin import _update_properties
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from stable_audio.checkpoints.files import TRAINING_ENTRY
from stable_audio.checkpoints.shards import Like, is_shards, read_shards
from stable_audio.training.errors import TrainingError
from stable_audio.training.gathering import is_split
from stable_audio.training.sharding import Sharding

FSDP, HSDP = "fsdp", "hsdp"
SPLITTING = (FSDP, HSDP)
"""Strategies that split weights, for `--strategy`."""


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
            if tensor is None or tensor.shape != size or not is_split(tensor):
                return None
            return torch.zeros_like(tensor, dtype=dtype)

        return like

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights, on the first process, or the parts of this one."""
        assert self.model is not None
        return super().lightning_module_state_dict() if self.gathers else self.model.state_dict()

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        """Take whole weights, of which every process keeps its part, or parts."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        assert self.model is not None
        if any(is_split(value) for value in checkpoint["state_dict"].values()):
            self.model.load_state_dict(checkpoint["state_dict"], strict=strict)
            return
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=options)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimizers are restored from the checkpoint after callbacks have seen it."""
        return True

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The whole state of an optimizer on the first process, parameters numbered as without splitting; or
        the parts of this process."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        assert self.model is not None
        plain = getattr(optimizer, "_optimizer", optimizer)
        if not self.gathers:
            return dict(plain.state_dict())
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(self.model, plain, options=options)
        return _renamed(state, {name: i for i, name in enumerate(self._names())}) if state else {}

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Take the whole state of each optimizer; every process keeps its part."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"]):
            if any(is_split(value) for values in state["state"].values() for value in values.values()):
                optimizer.load_state_dict(state)
                continue
            named: Any = _renamed(state, dict(enumerate(self._names())))
            set_optimizer_state_dict(self.model, optimizer, named, options=options)

    def _names(self) -> list[str]:
        """Of the trained parameters, in the optimizer's order."""
        assert self.model is not None
        return [name for name, p in self.model.named_parameters() if p.requires_grad]


def _renamed(state: Any, names: Mapping[Any, Any]) -> dict[str, Any]:
    groups = [{**g, "params": [names[p] for p in g["params"]]} for g in state["param_groups"]]
    return {"state": {names[p]: value for p, value in state["state"].items()}, "param_groups": groups}


def check_splitting(model: nn.Module, model_type: str, *, strategy: str = FSDP) -> None:
    """Refuse models some of whose trained weights would not be split.

    Raises:
        TrainingError: why.
    """
    if not model_type.startswith("diffusion_") or model_type == "diffusion_autoencoder":
        raise TrainingError(
            f"--strategy {strategy} splits the backbone and the conditioners of diffusion models; "
            f"{model_type} has other networks, use --strategy ddp"
        )
    pretransform = getattr(model, "pretransform", None)
    if pretransform is not None and any(p.requires_grad for p in pretransform.parameters()):
        raise TrainingError(
            f"--strategy {strategy} does not split a pretransform that is trained along; set its enable_grad "
            "to false, or use --strategy ddp"
        )


def measured(norm: Tensor) -> Tensor:
    """The norm of gradients that are split, on every process."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def are_split(module: nn.Module) -> bool:
    """Whether processes have parts of its weights only."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) for p in module.parameters())
