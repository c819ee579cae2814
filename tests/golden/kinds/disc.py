"""Kind `disc`: losses of discriminators, and their gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from stable_audio.pretransforms.discriminators import Discriminator
from stable_audio.pretransforms.discriminators.arc import ConvHead, ConvNeXtHead
from stable_audio.pretransforms.discriminators.dac import DACDiscriminator
from stable_audio.pretransforms.discriminators.encodec import EncodecDiscriminator
from stable_audio.pretransforms.discriminators.oobleck import MultiPeriod, MultiScale, OobleckDiscriminator
from tests.golden.harness import Case, load_strict


def _dac(channels: int | None = None, **kwargs: Any) -> DACDiscriminator:
    return DACDiscriminator(**({} if channels is None else {"in_channels": channels}), **kwargs)


CLASSES: dict[str, Callable[..., Discriminator]] = {
    "EncodecDiscriminator": EncodecDiscriminator,
    "OobleckDiscriminator": OobleckDiscriminator,
    "DACGANLoss": _dac,
    "arc.ConvDiscriminator": ConvHead,
    "arc.ConvNeXtDiscriminator": ConvNeXtHead,
}


def run(case: Case) -> dict[str, Any]:
    discriminator = build(case.config)
    load_strict(discriminator, case.weights())
    reals, fakes = case.inputs["reals"], case.inputs["fakes"].requires_grad_()
    generator = discriminator.generator_losses(reals, fakes)
    (generator.adversarial + generator.feature_matching).backward()
    assert fakes.grad is not None
    out: dict[str, Any] = {
        "loss_adv": generator.adversarial,
        "feature_matching": generator.feature_matching,
        "grad_fakes": fakes.grad[..., 100:140],
        "grad_fakes_norm": fakes.grad.norm(),
    }
    discriminator.zero_grad()
    out["loss_dis"] = discriminator.discriminator_loss(reals, fakes.detach())
    out["loss_dis"].backward()
    grads = {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in discriminator.named_parameters()
    }
    out["grad_norms"] = torch.stack([grads[n].norm() for n in case.extra["grad_param_names"]])
    out["grad_total_norm"] = out["grad_norms"].norm()
    out.update({f"grad.{n}": g for n, g in grads.items()})
    return out


def build(config: dict[str, Any]) -> Discriminator:
    """A class and its arguments; small oobleck discriminators are written out as an expression."""
    if "kwargs" in config:
        return CLASSES[config["cls"]](**config["kwargs"])
    parts = []
    for name, kind in (("MultiScaleDiscriminator", MultiScale), ("MultiPeriodDiscriminator", MultiPeriod)):
        if found := re.search(rf"{name}\((.*?)\)", config["cls"]):
            pairs = re.findall(r"(\w+)=(\[[\d,]*\]|\d+)", found.group(1))
            parts.append(kind(**{k: _value(v) for k, v in pairs}))
    return OobleckDiscriminator.of(*parts) if parts else OobleckDiscriminator()


def _value(text: str) -> Any:
    return tuple(int(v) for v in text[1:-1].split(",")) if text.startswith("[") else int(text)
