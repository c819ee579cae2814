"""Parts of a model that are on the device for as long as they compute, and else in host memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from stable_audio.adapters.layers import forget_computed_weights
from stable_audio.conditioning.base import Conditioner
from stable_audio.model import DiffusionModel

_ONE_AT_A_TIME = threading.RLock()
"""Held while a part is on a device, so that threads which share models do not bring two."""


def offload(model: DiffusionModel, device: torch.device | str) -> DiffusionModel:
    """Let the parts of a model compute on `device` in turn: conditioners with their text encoders, then the
    backbone, then the autoencoder. Between their turns they are in host memory.

    Returns:
        the model, whose weights are moved to host memory.

    Raises:
        ValueError: the device is the CPU, whose memory that is.
    """
    place = torch.device(device)
    if place.type == "cpu":
        raise ValueError(
            "offload: the device is the CPU, and weights that rest in its memory save nothing; leave it out"
        )
    model.to("cpu")
    model.computes_on = place
    return model


@contextmanager
def visiting(model: DiffusionModel, part: nn.Module | None) -> Iterator[None]:
    """Context in which `part` of an offloaded model has its weights on the device.

    The weights in host memory stay as they are and are taken up again afterwards, so that nothing is copied
    back. For any other model nothing happens.
    """
    if model.computes_on is None or part is None:
        yield
        return
    with _ONE_AT_A_TIME, ExitStack() as leaving:
        leaving.callback(forget_computed_weights, part)  # of adapters, which would stay on the device
        device, home = model.computes_on, next(model.backbone.parameters()).device
        for member in part.modules() if home != device else ():
            if isinstance(member, Conditioner):
                _bring_followers(member, device, home, leaving)
        for tensor in chain(part.parameters(), part.buffers()):
            if not _is_there(tensor, device):
                leaving.callback(_put_back, tensor, tensor.data)
                tensor.data = _brought(tensor.data, device)
        yield


def _bring_followers(
    conditioner: Conditioner, device: torch.device, home: torch.device, leaving: ExitStack
) -> None:
    """Frozen encoders, which others may share on the CPU: those on the device are copies, or loaded there."""
    at_rest = list(conditioner.followers())  # held, so that `follow` finds them again

    def leave() -> None:
        conditioner.follow(lambda tensor: tensor.to(home))
        at_rest.clear()

    leaving.callback(leave)
    conditioner.follow(lambda tensor: tensor.to(device))


def _put_back(tensor: Tensor, at_rest: Tensor) -> None:
    tensor.data = at_rest


def _is_there(tensor: Tensor, device: torch.device) -> bool:
    return tensor.device == device or (tensor.device.type == device.type and device.index is None)


def _brought(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device)
