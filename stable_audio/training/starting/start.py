"""The model that a new run starts with: built, and filled with weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.adapters import BaseModel
from stable_audio.adapters.spec import specs_of
from stable_audio.checkpoints import (
    LoadReport,
    StoredWeights,
    load_named,
    load_pretransform,
    read_checkpoint,
)
from stable_audio.checkpoints.adapted import merge_into
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.difference import keys_of, tensors_of
from stable_audio.checkpoints.filling import load_stored
from stable_audio.checkpoints.loaded_base import LoadedBase
from stable_audio.config import ModelConfig
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel
from stable_audio.nn.unfilled import take_own_memory, with_stored_weights
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.saved import base_for
from stable_audio.training.starting.adapters import adapted_model
from stable_audio.training.starting.refusals import refuse_useless_weights
from stable_audio.transforms.folding import fold_pretransform
from stable_audio.transforms.recorded import Record
from stable_audio.wording import plural

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A model with the weights that a run begins or goes on with.

    Attributes:
        inherited: records of what had been done to it where its weights come from.
        base: the file that the run's own files refer to, None where they hold all weights.
        from_base: parameters and buffers that have their values from `base`.
        to_copy: the content of `base`, where it is to be copied into the run's folder.
        adapted: what an adapter's file says of `model`, where the run trains one.
    """

    model: nn.Module
    inherited: Sequence[Record] = ()
    base: BaseFile | None = None
    from_base: Sequence[Tensor] = ()
    to_copy: StoredWeights | None = None
    adapted: BaseModel | None = None


def starting_model(config: ModelConfig, options: RunOptions, *, adapter: bool = False) -> Start:
    """Build the model and load the weights that its config and the options name; options take precedence.

    Norms are folded here where that comes before loading; what follows loading, `transforms_for` lists.
    A model whose weights are all stored is built without any. What no file holds starts as it would in a
    run from scratch with the same seed.

    Args:
        adapter: the run trains an adapter of the model.

    Raises:
        TrainingError: a learned pretransform has no weights, or not those with the hash in the config; the
            model of an adapter has no file or is not whole; weights are not finite.
        CheckpointError: a file does not fit.
    """
    folding = options.remove_pretransform_weight_norm
    path = options.pretrained_ckpt_path
    pretrained = read_checkpoint(path, use_ema=options.use_ema_weights) if path else None
    base = base_for(pretrained, options, adapter=adapter)

    def build(unfilled: bool) -> nn.Module:
        return seeded_model(config, options, unfilled=unfilled, folded=folding == "pre_load")

    def load(model: nn.Module) -> list[LoadReport]:
        return _load(model, config, options, pretrained)

    if pretrained is not None:
        model, reports = with_stored_weights(build, load)
        torch.manual_seed(options.seed)  # for what is built next
        take_own_memory(model, (key for report in reports for key in report.loaded))
    else:  # a backbone from scratch draws after its pretransform
        model = build(False)
        reports = load(model)
    for report in reports:
        log.info("%s", report)
    refuse_useless_weights(model, config, options, reports)
    inherited = [record for report in reports for record in report.transforms]
    from_base = [] if base is None else _from_base(model, reports, options)
    if options.adapters:
        merge_adapters(model, config, options)
        # Merged weights are no longer those of the base.
        from_base = tensors_of(model, keys_of(model, from_base))
    if base is None:
        return Start(model, inherited)
    to_copy = pretrained if options.checkpoint_weights == "base" else None
    adapted = adapted_model(model, from_base, base) if adapter else None
    return Start(model, inherited, base, from_base, to_copy, adapted)


def merge_adapters(model: nn.Module, config: ModelConfig, options: RunOptions) -> None:
    """Write the adapters of the options into the weights that a run starts with.

    Raises:
        TrainingError: the model is no diffusion model, or the run trains an adapter of its own.
        AdapterError: see `merge_into`.
    """
    if not isinstance(model, DiffusionModel):
        raise TrainingError(f"--adapter is for diffusion models; this is a {config.model_type} model")
    if getattr(config.training, "lora_config", None) is not None:
        raise TrainingError(
            "--adapter and training.lora_config: the file of an adapter names its base, which here would be "
            "in no file; write it with `stable-audio adapter merge` and start from that"
        )
    path = options.pretrained_ckpt_path
    merge_into(LoadedBase(model, {}, Path(path).name), specs_of(options.adapters), any_base=options.any_base)
    log.info("%s: %s merged", path, plural(len(options.adapters), "adapter"))


def _from_base(model: nn.Module, reports: Sequence[LoadReport], options: RunOptions) -> list[Tensor]:
    """What the file of --pretrained-ckpt-path gave, and --pretransform-ckpt-path did not replace."""
    replaced = set(reports[-1].loaded) if options.pretransform_ckpt_path else set()
    pretrained = reports[-2] if options.pretransform_ckpt_path else reports[-1]
    return tensors_of(model, (key for key in pretrained.loaded if key not in replaced))


def with_hash(config: ModelConfig, model: nn.Module) -> ModelConfig:
    """The config with the hash of the pretransform's weights, where these are learned and frozen.

    Folded norms do not count: the hash is that of the weights before.
    """
    pretransform: Any = getattr(model, "pretransform", None)
    if pretransform is None or not pretransform.needs_weights or pretransform.enable_grad:
        return config
    return config.with_pretransform_hash(pretransform.folded_from or pretransform_hash(pretransform))


def seeded_model(config: ModelConfig, options: RunOptions, *, unfilled: bool, folded: bool) -> nn.Module:
    """A new model, whose initial weights depend on the seed alone and are the same on every process."""
    torch.manual_seed(options.seed)
    model = create_model_from_config(config, unfilled=unfilled)
    if folded:
        try:
            fold_pretransform(model)
        except ValueError as error:
            raise TrainingError(f"--remove-pretransform-weight-norm: {error}") from error
    return model


def _load(
    model: nn.Module, config: ModelConfig, options: RunOptions, pretrained: StoredWeights | None
) -> list[LoadReport]:
    paths = dict(config.weights)
    if options.pretransform_ckpt_path:
        paths = {k: v for k, v in paths.items() if not k.startswith("pretransform")}
    reports = load_named(model, paths, use_ema=options.use_ema_weights)
    if pretrained is not None:
        reports.append(load_stored(model, pretrained, partial=options.partial))
    if options.pretransform_ckpt_path:
        path, use_ema = options.pretransform_ckpt_path, options.use_ema_weights
        reports.append(load_pretransform(model, path, use_ema=use_ema, partial=options.partial))
    return reports
