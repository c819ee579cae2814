"""Load a pretransform without the model around it, for encoding, decoding and measuring."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from stable_audio.checkpoints import load_model, load_named, load_pretransform
from stable_audio.checkpoints.files import read_checkpoint
from stable_audio.checkpoints.loading import stored_model_config
from stable_audio.checkpoints.stored_weights import StoredWeights
from stable_audio.config import ModelConfig, load_config
from stable_audio.factory import create_model_from_config
from stable_audio.factory.pretransforms import build_autoencoder, build_pretransform
from stable_audio.inference.codec.diffusion_codec import DiffusionCodec
from stable_audio.nn.unfilled import Unfilled, with_stored_weights
from stable_audio.pretransforms.autoencoder_pretransform import AutoencoderPretransform
from stable_audio.pretransforms.base import Pretransform

_UNTRAINED = (
    "the pretransform is learned and no weights were given, so its latents would be noise: "
    "give --ckpt-path, or --allow-untrained-pretransform if that is what you want"
)


class Codec(NamedTuple):
    """A pretransform that is ready to use.

    Attributes:
        pretransform: in eval mode.
        sample_rate: in Hz.
        sample_size: length in samples of the clips that the model was trained on.
        source: origin of the weights, for messages.
    """

    pretransform: Pretransform
    sample_rate: int
    sample_size: int
    source: str


class _Holder(nn.Module):
    """Takes the place of the whole model, so that only its pretransform has to be built."""

    def __init__(self, pretransform: Pretransform) -> None:
        super().__init__()
        self.pretransform = pretransform


def load_codec(
    *,
    model_config: str | Path | None = None,
    ckpt_path: str | Path | None = None,
    device: torch.device | str = "cpu",
    allow_untrained: bool = False,
    lenient: bool = False,
) -> Codec:
    """Load the pretransform of a model, or an autoencoder as a pretransform.

    Args:
        model_config: file of a diffusion model with a pretransform, or of an autoencoder of any kind;
            default: the config inside the checkpoint or beside it.
        ckpt_path: checkpoint of a whole model or of an autoencoder; not needed for transforms without
            weights, nor if the config names the weights by `path`.
        allow_untrained: accept a learned transform with random weights.
        lenient: as for `load_config`.

    Raises:
        ValueError: there is no pretransform, or it has no weights.
    """
    source: Any = model_config
    name: str | None = None
    checkpoint: str | Path | StoredWeights | None = ckpt_path
    if source is None and ckpt_path is not None:
        checkpoint = stored = read_checkpoint(ckpt_path)
        source, name = stored.config, f"{stored.path}, config"
    if source is None:
        raise ValueError(
            "no config for the pretransform: give --model-config, or a --ckpt-path with a config inside"
        )
    if name is None:
        config = load_config(source, lenient=lenient)
    else:
        config = stored_model_config(source, source_name=name, lenient=lenient)
    if config.model_type == "diffusion_autoencoder":
        return _codec(_by_diffusion(config, checkpoint, device, allow_untrained), config, ckpt_path)
    if config.model_type != "autoencoder" and config.model.pretransform is None:
        raise ValueError(
            f"{model_config or ckpt_path}: the model has no pretransform, since it works on audio directly"
        )

    def load(pretransform: Pretransform) -> None:
        if checkpoint is not None and pretransform.state_dict():
            load_pretransform(_Holder(pretransform), checkpoint)
        elif config.weights and config.model_type != "autoencoder":
            load_named(_Holder(pretransform), config.weights)
        elif pretransform.needs_weights and not allow_untrained:
            raise ValueError(_UNTRAINED)

    pretransform, _ = with_stored_weights(lambda unfilled: _build(config, unfilled), load)
    pretransform = pretransform.to(device).eval().requires_grad_(False)
    return _codec(pretransform, config, ckpt_path)


def _codec(pretransform: Pretransform, config: ModelConfig, ckpt_path: str | Path | None) -> Codec:
    source = str(ckpt_path) if ckpt_path is not None else type(pretransform).__name__
    return Codec(pretransform, config.sample_rate, config.sample_size, source)


def _build(config: ModelConfig, unfilled: bool) -> Pretransform:
    with Unfilled() if unfilled else nullcontext():
        if config.model_type == "autoencoder":
            return AutoencoderPretransform(
                model=build_autoencoder(config.model, sample_rate=config.sample_rate)
            )
        return build_pretransform(config.model.pretransform)


def _by_diffusion(
    config: ModelConfig,
    checkpoint: str | Path | StoredWeights | None,
    device: torch.device | str,
    allow_untrained: bool,
) -> Pretransform:
    if checkpoint is None and not allow_untrained:
        raise ValueError(_UNTRAINED)
    model: Any = create_model_from_config(config) if checkpoint is None else None
    if checkpoint is not None:
        model, _ = load_model(checkpoint, config=config)
    return DiffusionCodec(model=model).to(device).eval()
