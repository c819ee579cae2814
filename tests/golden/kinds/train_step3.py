"""Kind `train_step3`: one training step of Stable Audio 3, with everything that is logged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stable_audio.adapters import AdapterStack
from stable_audio.adapters.layers import updates_of
from stable_audio.checkpoints.keys import to_ours
from stable_audio.checkpoints.weights import load_weights
from stable_audio.config import load_config
from stable_audio.data.base import Batch
from stable_audio.diffusion.losses import LossInputs
from stable_audio.diffusion.objectives import Compared
from stable_audio.factory import create_model_from_config
from stable_audio.training.build import build_training
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.diffusion.prepared import PreparedBatch
from tests.golden.harness import Case
from tests.golden.kinds.adapters import adapters_of
from tests.golden.kinds.assembly import base_weights
from tests.golden.kinds.train_step import GivenMasks, StoredDraws, gradients


class _Draws(StoredDraws):
    def timesteps(self, n: int, length: Any) -> Tensor:
        t, shift = self.inputs["t_draw"], self.module.model.dist_shift
        if shift is None:
            return t
        return shift(t, length if isinstance(length, int) else torch.tensor(length))

    def exponential(self, n: int) -> list[float]:
        return self.inputs["exponential"].tolist()

    def bernoulli(self, n: int, prob: float) -> Tensor:
        return self.inputs["bernoulli.0"].bool()


def run(case: Case) -> dict[str, Any]:
    values = case.config
    # The default there; here a file without any of the keys has the loss of stable-audio-tools.
    values["training"].setdefault("mask_loss_weight", 0.0)
    # These cases were computed without flash-attn, where padding keeps its share of attention.
    values["model"]["diffusion"]["config"]["attn_kwargs"]["padding"] = "zero_values"
    adapter = values["training"].pop("lora_config", None)
    config = load_config(values, skip_rules=("sample_size",))
    model = create_model_from_config(config)
    load_weights(model, to_ours(base_weights(case), model.state_dict().keys()))
    stack = _with_adapter(case, model, adapter)
    model.train(case.spec["mode"] == "train")
    module = build_training(config, model)
    assert isinstance(module, DiffusionTraining)
    if "inpaint_mask" in case.inputs:
        module.inpainting = GivenMasks(case.inputs["inpaint_mask"])  # type: ignore[assignment]
    step = module.prepare(_batch(case), _Draws(case, module))
    compared = model.objective.compare(step.point)
    loss = module.score(compared, step)
    loss.backward()
    logged = module.window.means()
    found = {
        "loss": loss,
        "x_t": compared.x_t,
        "t": step.point.t,
        "logged": torch.stack([logged[name].float() for name in case.extra["logged"]]),
        "per_item_loss": _per_item(module, compared, step),
        **(gradients(case, model) if stack is None else _trained(case, module, stack)),
    }
    mask = step.conditioning.padding_mask
    return found if mask is None else {**found, "attention_mask": mask}


def _with_adapter(case: Case, model: Any, values: dict[str, Any] | None) -> AdapterStack | None:
    """Only the adapter is trained, which has the tensors of the case."""
    if values is None:
        return None
    model.requires_grad_(False)
    stack = AdapterStack(model.backbone, model.conditioner)
    (adapter,) = adapters_of(case, [values])
    assert {*adapter.tensors()} == {*case.extra["saved_keys"]}
    assert {*stack.selection(values["include"], values["exclude"])} == {*adapter.layers}
    stack.add(adapter)
    return stack


def _trained(case: Case, module: DiffusionTraining, stack: AdapterStack) -> dict[str, Any]:
    """Gradients of the adapter, and its tensors after a step, by their names in the reference's model."""
    prefixes = {"model.": "model.model.", "": "conditioner."}
    parameters = {
        f"{prefixes['model.' if name.startswith('model.') else '']}{name.removeprefix('model.')}"
        f".parametrizations.weight.0.{key}": parameter
        for name, layer in stack.layers.items()
        for update in updates_of(layer).values()
        for key, parameter in update.named_parameters()
    }
    assert {*parameters} == {*case.extra["grad_param_names"]}
    trained = [p for p in module.model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in parameters.values()}
    found = {f"grad.{name}": p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    found["grad_norms"] = torch.stack([parameters[n].grad.norm() for n in case.extra["grad_param_names"]])
    values = case.config["training"]["optimizer_configs"]["diffusion"]["optimizer"]["config"]
    torch.optim.AdamW(trained, **values).step()
    return {**found, **{f"after.{name}": p for name, p in parameters.items()}}


def _per_item(module: DiffusionTraining, compared: Compared, step: PreparedBatch) -> Tensor:
    inputs: LossInputs = module.loss_inputs(compared, step.point, groups=step.groups)
    return module.losses.terms[0].loss.elementwise(inputs).flatten(1).mean(1)  # type: ignore[attr-defined]


def _batch(case: Case) -> Batch:
    metadata = [dict(m) for m in case.extra["metadata"]]
    for item, mask in zip(metadata, case.inputs.get("padding_mask", ())):
        item["padding_mask"] = mask
    return Batch(case.inputs["x"], metadata)
