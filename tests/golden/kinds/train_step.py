"""Kind `train_step`: loss, gradients and logged scalars of one step of diffusion training."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from stable_audio.checkpoints.keys import our_names, to_ours
from stable_audio.checkpoints.weights import load_weights
from stable_audio.config import load_config
from stable_audio.data.base import Batch
from stable_audio.factory import create_model_from_config
from stable_audio.training.build import build_training
from stable_audio.training.diffusion.module import DiffusionTraining
from tests.golden.harness import Case


class StoredDraws:
    """Hands out what the reference drew."""

    def __init__(self, case: Case, module: DiffusionTraining) -> None:
        self.inputs, self.module = case.inputs, module
        self._bernoulli = [torch.tensor(d).bool() for d in case.calls.get("dropout_bernoulli") or []]

    def timesteps(self, n: int, length: int) -> Tensor:
        t, shift = self.inputs["t"], self.module.model.dist_shift
        return t if shift is None else shift(t, length)

    def noise(self, like: Tensor) -> Tensor:
        return self.inputs["noise"]

    def encoder_noise(self, like: Tensor) -> Tensor:
        return self.inputs["vae_noise"]

    def bernoulli(self, n: int, prob: float) -> Tensor:
        return self._bernoulli.pop(0)

    def coin(self, prob: float) -> bool:
        return False

    def item_random(self, item: int) -> random.Random:
        return random.Random(item)


class GivenMasks:
    """Stands in for the random masks."""

    def __init__(self, masks: Tensor) -> None:
        self._masks = iter(masks)

    def __call__(self, real: int, length: int, choices: random.Random, kind: str | None = None) -> Tensor:
        return next(self._masks)


def run(case: Case) -> dict[str, Any]:
    # The lengths of the inputs have nothing to do with the sample_size of the file.
    config = load_config(case.config, skip_rules=("sample_size",))
    model = create_model_from_config(config)
    load_weights(model, to_ours(case.weights(), model.state_dict().keys()))
    model.train(case.spec["mode"] == "train")
    module = build_training(config, model)
    assert isinstance(module, DiffusionTraining)
    if "inpaint_mask" in case.inputs:
        module.inpainting = GivenMasks(case.inputs["inpaint_mask"])  # type: ignore[assignment]
    loss = module.training_step(_batch(case), draws=StoredDraws(case, module))
    loss.backward()
    found: dict[str, Any] = {"loss": loss, **gradients(case, model)}
    if case.extra.get("logged"):
        found["logged"] = _logged(case, module)
    return {**found, **_after_step(case, module)}


def _batch(case: Case) -> Batch:
    x = case.inputs["x"]
    metadata = [dict(m) for m in case.extra.get("metadata") or [{} for _ in range(x.shape[0])]]
    if "padding_mask" in case.inputs:
        for item, mask in zip(metadata, case.inputs["padding_mask"]):
            item["padding_mask"] = mask
    return Batch(x, metadata)


def _parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return dict(model.named_parameters())


def _ours(key: str, known: dict[str, Any]) -> str:
    return next(n for n in our_names(key) if n in known)


def gradients(case: Case, model: torch.nn.Module) -> dict[str, Any]:
    parameters = _parameters(model)
    names = case.extra["grad_param_names"]
    gradients = {n: parameters[_ours(n, parameters)].grad for n in names}
    missing = [n for n, g in gradients.items() if g is None]
    assert not missing, f"no gradient reached {missing}"
    norms = torch.stack([g.norm() for g in gradients.values()])
    with_gradient = [p.grad.norm() for p in parameters.values() if p.grad is not None]
    found = {"grad_norms": norms, "grad_total_norm": torch.stack(with_gradient).norm()}
    return {**found, **{f"grad.{n}": g for n, g in gradients.items()}}


def _logged(case: Case, module: DiffusionTraining) -> Tensor:
    made = module.configure_optimizers()
    # The reference was run with a stand-in trainer whose rate is `learning_rate`, even where
    # `optimizer_configs` overrules it (and `extra.optimizer` shows the rate that was really used).
    rate = case.config["training"].get("learning_rate") or made["optimizer"].param_groups[0]["lr"]
    values = {**module.window.means(), "train/lr": rate}
    return torch.stack([torch.as_tensor(values[name]).float() for name in case.extra["logged"]])


def _after_step(case: Case, module: DiffusionTraining) -> dict[str, Any]:
    made = module.configure_optimizers()  # kept: the scheduler wraps the optimizer's step
    made["optimizer"].step()
    parameters = _parameters(module.model)
    wanted = [n for n in case.expected() if n.startswith("after_step.")]
    return {n: parameters[_ours(n.removeprefix("after_step."), parameters)] for n in wanted}
