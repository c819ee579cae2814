"""The model that a run starts with: built, filled with weights, and refused when its latents mean nothing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.adapters import BaseModel
from stable_audio.adapters.spec import specs_of
from stable_audio.checkpoints import (
    CheckpointError,
    LoadReport,
    StoredWeights,
    load_named,
    load_pretransform,
    load_unsaved,
    load_weights,
    read_checkpoint,
)
from stable_audio.checkpoints.adapted import LoadedBase, merge_into
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.difference import keys_of, tensors_of
from stable_audio.checkpoints.filling import load_base, load_stored
from stable_audio.checkpoints.format import ADAPTED_KEY, BASE_KEY, TRAINING_ENTRY, TRANSFORMS_KEY
from stable_audio.checkpoints.keys import strip
from stable_audio.config import ModelConfig
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel
from stable_audio.nn.unfilled import take_own_memory, with_stored_weights
from stable_audio.pretransforms.conv import fold_as_stored
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.training.base import TrainingModule
from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.finite_values import not_finite_among
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.saved import INHERITED_KEY, base_for
from stable_audio.training.starting.adapters import adapted_model
from stable_audio.transforms.folding import fold_pretransform
from stable_audio.transforms.recorded import Record, apply_transforms, rebuild
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
        return _seeded(config, options, unfilled=unfilled, folded=folding == "pre_load")

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
    _refuse_no_numbers(model, reports)
    _refuse_untrained_sounds(model, reports, options)
    _refuse_untrained_pretransform(model, reports, options)
    _refuse_another_pretransform(model, config, reports)
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


def _refuse_no_numbers(model: nn.Module, reports: Sequence[LoadReport]) -> None:
    """Raise TrainingError for stored weights that no training can begin with: it would look like bad data."""
    sources = {key: report.source for report in reports for key in report.loaded}
    loaded = ((key, value.detach()) for key, value in model.named_parameters() if key in sources)
    if broken := not_finite_among(loaded):
        raise TrainingError(
            f"{sources[broken[0]]}: its weights hold values that are not finite, in {broken[0]}; take "
            "another checkpoint of that run, from before they broke"
        )


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
        lambda unfilled: _seeded(config, options, unfilled=unfilled, folded=folded), load
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


def with_hash(config: ModelConfig, model: nn.Module) -> ModelConfig:
    """The config with the hash of the pretransform's weights, where these are learned and frozen.

    Folded norms do not count: the hash is that of the weights before.
    """
    pretransform: Any = getattr(model, "pretransform", None)
    if pretransform is None or not pretransform.needs_weights or pretransform.enable_grad:
        return config
    return config.with_pretransform_hash(pretransform.folded_from or pretransform_hash(pretransform))


def _seeded(config: ModelConfig, options: RunOptions, *, unfilled: bool, folded: bool) -> nn.Module:
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


def _refuse_untrained_pretransform(model: nn.Module, reports: list[LoadReport], options: RunOptions) -> None:
    pretransform: Any = getattr(model, "pretransform", None)
    if pretransform is None or not pretransform.needs_weights or pretransform.enable_grad:
        return
    missing = _missing_weights(model, reports)
    if not missing:
        return
    text = "the pretransform is learned, but no weights were loaded for it: the model would learn noise"
    if _loaded(reports):
        text = (
            f"the pretransform is learned, but {plural(len(missing), 'weight', 'were')} not loaded "
            f"({missing[0]}, ...): the model would learn noise"
        )
    if not options.allow_untrained_pretransform:
        raise TrainingError(
            f"{text}. Name them by 'path' in $.model.pretransform, or give --pretransform-ckpt-path (or "
            "--pretrained-ckpt-path with a whole model); to train on random latents all the same, add "
            "--allow-untrained-pretransform"
        )
    log.warning("%s, as allowed by --allow-untrained-pretransform", text)


def _refuse_untrained_sounds(model: nn.Module, reports: list[LoadReport], options: RunOptions) -> None:
    """Conditioners that encode sounds with a learned pretransform of their own need its weights."""
    conditioners: Any = getattr(getattr(model, "conditioner", None), "conditioners", {})
    for key, conditioner in conditioners.items():
        inner = getattr(conditioner, "pretransform", None)
        if inner is None or inner is getattr(model, "pretransform", None):
            continue
        prefix = f"conditioner.conditioners.{key}.pretransform."
        if not inner.needs_weights or inner.enable_grad or any(r.loaded_below(prefix) for r in reports):
            continue
        text = f"the pretransform of the conditioner '{key}' is learned, but no weights were loaded for it"
        if not options.allow_untrained_pretransform:
            raise TrainingError(
                f"{text}: it would encode sounds as noise. Name them by pretransform_ckpt_path, or "
                "add --allow-untrained-pretransform"
            )
        log.warning("%s, as allowed by --allow-untrained-pretransform", text)


def _refuse_another_pretransform(model: nn.Module, config: ModelConfig, reports: list[LoadReport]) -> None:
    expected = getattr(getattr(config.model, "pretransform", None), "hash", None)
    if expected is None or not _loaded(reports):
        return
    pretransform: Any = model.pretransform
    if (actual := pretransform_hash(pretransform)) != expected:
        raise TrainingError(
            f"$.model.pretransform.hash: found {expected}, but the loaded weights have the hash {actual}; "
            "give the file with the right weights, or remove the key"
        )


def _loaded(reports: list[LoadReport]) -> bool:
    """Whether weights of the pretransform were loaded, not counting a pretransform inside it."""
    inner = "pretransform.model.pretransform."
    return any(r.loaded_below("pretransform.") > r.loaded_below(inner) for r in reports)


def _missing_weights(model: nn.Module, reports: list[LoadReport]) -> list[str]:
    """Weights of the pretransform that were not loaded; those of one inside it follow from formulas."""
    inner = "pretransform.model.pretransform."
    loaded = {key for report in reports for key in report.loaded}
    own = [k for k in model.state_dict() if k.startswith("pretransform.") and not k.startswith(inner)]
    return [k for k in own if k not in loaded]
