"""Weights, gradients, optimizer and average split over the processes of a run: PyTorch's FSDP2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from stable_audio.training.errors import TrainingError

NAME = "fsdp"
"""Of the strategy, for `--strategy`."""

METHODS = ("forward_packed", "prepare", "null")
"""Of backbones, which read weights besides `forward`."""


class SplitWeights(ModelParallelStrategy):
    """Every process keeps a part of each weight, and all of them while a network runs.

    Files hold whole weights: all processes gather them, and one writes.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """All processes split; none shares a part with another."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """As other strategies do: the file is read by every process, whole."""
        return self.checkpoint_io.load_checkpoint(Path(self.broadcast(checkpoint_path)))

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        """Take whole weights; every process keeps its part."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=options)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimizers are restored from the checkpoint after callbacks have seen it."""
        return True

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The whole state of an optimizer on the first process, parameters numbered as without splitting."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        assert self.model is not None
        plain = getattr(optimizer, "_optimizer", optimizer)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(self.model, plain, options=options)
        return _renamed(state, {name: i for i, name in enumerate(self._names())}) if state else {}

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Take the whole state of each optimizer; every process keeps its part."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"]):
            named: Any = _renamed(state, dict(enumerate(self._names())))
            set_optimizer_state_dict(self.model, optimizer, named, options=options)

    def _names(self) -> list[str]:
        """Of the trained parameters, in the optimizer's order."""
        assert self.model is not None
        return [name for name, p in self.model.named_parameters() if p.requires_grad]


def _renamed(state: Any, names: Mapping[Any, Any]) -> dict[str, Any]:
    groups = [{**g, "params": [names[p] for p in g["params"]]} for g in state["param_groups"]]
    return {"state": {names[p]: value for p, value in state["state"].items()}, "param_groups": groups}


def split(module: nn.Module, mesh: Any) -> None:
    """Split the parts of a diffusion model that are trained, each as one.

    Args:
        module: the model, with `backbone` and `conditioner`.
        mesh: the processes.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    backbone: Any = module.backbone
    fully_shard(backbone, mesh=mesh)
    for name in METHODS:
        register_fsdp_forward_method(backbone, name)
    conditioner = getattr(module, "conditioner", None)
    if conditioner is not None and list(conditioner.parameters()):
        fully_shard(conditioner, mesh=mesh)


def check_splitting(model: nn.Module, model_type: str) -> None:
    """Refuse models some of whose trained weights would not be split.

    Raises:
        TrainingError: why.
    """
    if not model_type.startswith("diffusion_") or model_type == "diffusion_autoencoder":
        raise TrainingError(
            f"--strategy {NAME} splits the backbone and the conditioners of diffusion models; {model_type} "
            "has other networks, use --strategy ddp"
        )
    pretransform = getattr(model, "pretransform", None)
    if pretransform is not None and any(p.requires_grad for p in pretransform.parameters()):
        raise TrainingError(
            f"--strategy {NAME} does not split a pretransform that is trained along; set its enable_grad to "
            "false, or use --strategy ddp"
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
