"""Kind `train_step_ae`: one generator or discriminator step of autoencoder training."""

from __future__ import annotations

from typing import Any

import torch

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.autoencoder.module import AutoencoderTraining
from stable_audio.training.build import build_training
from tests.golden.harness import Case, Replay, load_strict

OURS = "autoencoder."


def run(case: Case) -> dict[str, Any]:
    config = load_config(case.config, skip_rules=("sample_size",))
    model = create_model_from_config(config)
    module = build_training(config, model)
    assert isinstance(module, AutoencoderTraining)
    weights = case.weights()
    load_strict(model, _below(weights, OURS))
    if module.discriminator is not None:
        load_strict(module.discriminator, _below(weights, "discriminator."))
    module.train(case.spec["mode"] == "train")
    step = case.calls["global_step"]
    noise = Replay([case.inputs["noise"]]) if "noise" in case.inputs else None
    # The reference keeps the graphs of both networks in both kinds of steps, which training here does not.
    made = module.reconstruct(case.inputs["x"], noise=noise)
    turn = module.is_discriminator_step(step)
    loss = module.discriminator_loss(made) if turn else module.generator_loss(made, step)
    loss.backward()
    return {"loss": loss, "logged": _logged(case, module), **_gradients(case, module)}


def _below(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def _logged(case: Case, module: AutoencoderTraining) -> torch.Tensor:
    optimizers = module.configure_optimizers()
    rates = {"train/gen_lr": optimizers[0].param_groups[0]["lr"]}
    rates["train/disc_lr"] = optimizers[-1].param_groups[0]["lr"]
    values = {**module.window.means(), **rates}
    return torch.stack([torch.as_tensor(values[name]).float() for name in case.extra["logged"]])


def _gradients(case: Case, module: AutoencoderTraining) -> dict[str, Any]:
    networks = [(OURS, module.model), ("discriminator.", module.discriminator)]
    found = {
        prefix + name: parameter.grad
        for prefix, network in networks
        if network is not None
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    norms = torch.stack([found[name].norm() for name in case.extra["grad_param_names"]])
    total = torch.stack([gradient.norm() for gradient in found.values()]).norm()
    return {"grad_norms": norms, "grad_total_norm": total, **{f"grad.{k}": v for k, v in found.items()}}
