"""The model of a run that goes on: built as its checkpoint says, and refused where it is another one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.adapters import BaseModel
from stable_audio.checkpoints import (
    CheckpointError,
    LoadReport,
    load_unsaved,
    load_weights,
)
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.difference import keys_of, tensors_of
from stable_audio.checkpoints.filling import load_base
from stable_audio.checkpoints.format import ADAPTED_KEY, BASE_KEY, TRAINING_ENTRY, TRANSFORMS_KEY
from stable_audio.checkpoints.keys import strip
from stable_audio.config import ModelConfig
from stable_audio.nn.unfilled import take_own_memory, with_stored_weights
from stable_audio.pretransforms.conv import fold_as_stored
from stable_audio.training.base import TrainingModule
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.saved import INHERITED_KEY
from stable_audio.training.starting.start import Start, seeded_model
from stable_audio.transforms.recorded import Record, apply_transforms, rebuild
from stable_audio.wording import plural


def continuing_model(
    config: ModelConfig, options: RunOptions, path: Path, content: Mapping[str, Any]
) -> Start:
    """Build the model of a training checkpoint, with the weights in it and in its base, and do to it what its
    run has done.

    Args:
        content: of the training checkpoint at `path`; its `state_dict` has the model below `model.`.

    Raises:
        CheckpointError: it belongs to another model, or its base is absent or another.
    """
    folded, state = bool(options.remove_pretransform_weight_norm), content["state_dict"]
    entry = content[TRAINING_ENTRY]
    base = BaseFile(**entry[BASE_KEY]) if entry.get(BASE_KEY) else None

    def load(model: nn.Module) -> tuple[Start, LoadReport]:
        load_unsaved(model, config.weights, use_ema=options.use_ema_weights)
        inherited: Sequence[Record] = entry.get(INHERITED_KEY, ())
        from_base: list[Tensor] = []
        if base is not None:
            from_base, report = load_base(model, base, path)
            inherited = report.transforms
        try:
            rebuild(model, inherited if base is None else ())
            apply_transforms(model, entry.get(TRANSFORMS_KEY, ()))
        except ValueError as error:
            raise _other_model(
                path, f"what its run did to its model before training fails: {error}"
            ) from error
        present = keys_of(model, from_base)
        match_checkpoint(model, path, state, present)
        report = load_weights(model, strip(state, "model."), source=str(path), present=present)
        # What the checkpoint has itself is not the base's, such as weights with merged adapters.
        stored = set(report.loaded)
        left = [key for key in keys_of(model, from_base) if key not in stored]
        adapted = BaseModel(**entry[ADAPTED_KEY]) if entry.get(ADAPTED_KEY) else None
        return Start(model, inherited, base, tensors_of(model, left), adapted=adapted), report

    model, (start, report) = with_stored_weights(
        lambda unfilled: seeded_model(config, options, unfilled=unfilled, folded=folded), load
    )
    torch.manual_seed(options.seed)
    take_own_memory(model, [*report.loaded, *keys_of(model, start.from_base)])
    return start


def match_checkpoint(
    model: nn.Module, path: Path, state: Mapping[str, Tensor], present: Collection[str] = ()
) -> None:
    """Make `model` ready for the weights of a training checkpoint: fold the norms that it has folded.

    Args:
        state: the `state_dict` of the checkpoint, whose model is below `model.`.
        present: keys of the model that are loaded already, and that the checkpoint may leave out.

    Raises:
        CheckpointError: it belongs to another model.
    """
    tensors = strip(state, "model.")
    fold_as_stored(model, tensors.keys())
    state_now = model.state_dict()
    differing = sorted((state_now.keys() ^ tensors.keys()) - (set(present) - tensors.keys())) or [
        k for k in tensors if state_now[k].shape != tensors[k].shape
    ]
    if differing:
        names = ", ".join([*differing[:3], *(["..."] if len(differing) > 3 else [])])
        raise _other_model(path, f"{plural(len(differing), 'weight', 'differ')} ({names})")


def _other_model(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: belongs to another model than this config's, so it cannot be continued: {reason}; "
        f"give --ckpt-path {path} in place of --model-config to use the config inside, or start from its "
        "weights with --pretrained-ckpt-path"
    )


def match_training(module: TrainingModule, path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a training checkpoint whose discriminator or optimizers are not those of this run.

    Args:
        module: the training module of this run.
        path: the training checkpoint.
        content: its content.

    Raises:
        CheckpointError: they differ.
    """
    ours, theirs = (
        {k: v.shape for k, v in state.items() if not k.startswith("model.")}
        for state in (module.state_dict(), content["state_dict"])
    )
    advice = "set it as it was, or start a new run from the weights with --pretrained-ckpt-path"
    if ours != theirs:
        has, had = ("a discriminator" if side else "no discriminator" for side in (ours, theirs))
        if has == had:
            has, had = "another one", "a discriminator"
        raise CheckpointError(
            f"{path}: was trained with {had}, but this config has {has} "
            f"($.training.loss_configs.discriminator); {advice}"
        )
    trained = [sum(p.requires_grad for p in n.module.parameters()) for n in module.networks()]
    counts = [sum(len(g["params"]) for g in o["param_groups"]) for o in content.get("optimizer_states", [])]
    if counts and counts != trained:
        raise CheckpointError(
            f"{path}: its optimizer trained {' and '.join(map(str, counts))} weights, but this config trains "
            f"{' and '.join(map(str, trained))}: another part of the model is frozen; {advice}"
        )
