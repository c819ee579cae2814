"""`reconstruction`: the training and the demos of autoencoders, from the `training` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stable_audio.config import ModelConfig
from stable_audio.config.schemas.leaf import Leaf, arguments
from stable_audio.config.sections.autoencoder import AutoencoderLosses, PointwiseSection
from stable_audio.config.sections.autoencoder import AutoencoderTrainingSection as Section
from stable_audio.factory.components import at_rate, create
from stable_audio.nn.terms import Term
from stable_audio.options import keywords_of
from stable_audio.pretransforms import Autoencoder
from stable_audio.pretransforms.discriminators import DISCRIMINATORS
from stable_audio.pretransforms.encoder_options import EncoderOptions
from stable_audio.pretransforms.losses import (
    HubertLoss,
    MultiResolutionMelLoss,
    MultiResolutionSTFTLoss,
    SumAndDifferenceSTFTLoss,
    Terms,
)
from stable_audio.pretransforms.losses.terms import OneChannel, Pair, Values, l1, loss_name, mse, value
from stable_audio.pretransforms.metrics import METRICS
from stable_audio.training.autoencoder.demos import AutoencoderDemos
from stable_audio.training.autoencoder.module import AutoencoderTraining
from stable_audio.training.autoencoder.parts import Adversary
from stable_audio.training.demo import DemoRenderer
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation.networks import OptimizerChoice
from stable_audio.training.teacher import build_teacher

_SCALES = [2048, 1024, 512, 256, 128, 64, 32]
_HOPS = [512, 256, 128, 64, 32, 16, 8]

DEFAULT_LOSSES: dict[str, Any] = {
    "discriminator": {
        "type": "encodec",
        "config": {"filters": 32, "n_ffts": _SCALES, "hop_lengths": _HOPS, "win_lengths": _SCALES},
        "weights": {"adversarial": 0.1, "feature_matching": 5.0},
    },
    "spectral": {
        "config": {
            "fft_sizes": _SCALES,
            "hop_sizes": _HOPS,
            "win_lengths": _SCALES,
            "perceptual_weighting": True,
        },
        "weights": {"mrstft": 1.0},
    },
}
"""The losses of a config without `loss_configs`."""


def build_autoencoder_training(
    config: ModelConfig, model: Autoencoder, run: Mapping[str, Any]
) -> AutoencoderTraining:
    """`autoencoder`.

    Raises:
        TrainingError: settings that do not fit together.
    """
    section: Section = config.training
    losses = section.loss_configs
    if losses is None:
        losses = AutoencoderLosses.model_validate(DEFAULT_LOSSES)
    teacher = build_teacher(section)
    optimizer, discriminator_optimizer = optimizer_choices(section)
    return AutoencoderTraining(
        model,
        terms=Terms(build_terms(losses, model, config.sample_rate, teacher=teacher is not None)),
        optimizer=optimizer,
        discriminator_optimizer=discriminator_optimizer,
        adversary=build_adversary(section, losses, model),
        warmup_steps=section.warmup_steps,
        encoder=EncoderOptions(**{key: getattr(section, key) for key in keywords_of(EncoderOptions)}),
        teacher=teacher,
        metrics=build_metrics(section, config.sample_rate),
        use_ema=section.use_ema,
        ema_options=section.ema.model_dump(),
        gradient_checkpointing=section.gradient_checkpointing,
        **run,
    )


def optimizer_choices(section: Section) -> tuple[OptimizerChoice, OptimizerChoice]:
    """Optimizers of autoencoder and discriminator; `learning_rate` alone means AdamW with betas (.8, .99)."""
    configs = section.optimizer_configs
    if configs is not None:
        autoencoder = _choice(configs.autoencoder)
        return autoencoder, (
            _choice(configs.discriminator) if configs.discriminator is not None else autoencoder
        )
    if section.learning_rate is None:
        raise TrainingError("$.training: give learning_rate or optimizer_configs")
    default = OptimizerChoice(
        {"type": "AdamW", "config": {"lr": section.learning_rate, "betas": [0.8, 0.99], "weight_decay": 0.01}}
    )
    return default, default


def _choice(section: Any) -> OptimizerChoice:
    scheduler = section.scheduler.model_dump() if section.scheduler is not None else None
    return OptimizerChoice(section.optimizer.model_dump(), scheduler)


def build_adversary(section: Section, losses: AutoencoderLosses, model: Autoencoder) -> Adversary | None:
    """Build the discriminator for the model's channels; None if the losses have none."""
    discriminator = losses.discriminator
    if discriminator is None:
        return None
    return Adversary(
        create(discriminator, DISCRIMINATORS, in_channels=model.out_channels),
        adversarial=discriminator.weights.adversarial,
        feature_matching=discriminator.weights.feature_matching,
        warmup_mode=section.warmup_mode,
    )


def build_terms(
    losses: AutoencoderLosses, model: Autoencoder, sample_rate: int, *, teacher: bool
) -> list[Term[Values]]:
    """All loss terms except the adversarial ones."""
    terms = _spectral_terms(losses, model, sample_rate, teacher)
    if losses.mrmel is not None:
        mel = MultiResolutionMelLoss(sample_rate=sample_rate, **arguments(losses.mrmel.config))
        weight = losses.mrmel.weights.mrmel
        terms.append(Term("mrmel_loss", Pair(mel, "reals", "decoded"), weight, losses.mrmel.decay))
    if losses.hubert is not None:
        speech = HubertLoss(sample_rate=sample_rate, **arguments(losses.hubert.config))
        weight = losses.hubert.weights.hubert
        terms.append(Term("hubert_loss", Pair(speech, "reals", "decoded"), weight, losses.hubert.decay))
    terms += _pointwise_terms(losses.time, "time_loss", ("reals", "decoded"))
    terms += _pointwise_terms(losses.pretransform, "pretransform_loss", ("transformed_reals", "transformed"))
    return terms + _bottleneck_terms(losses, model)


def _pointwise_terms(
    section: PointwiseSection | None, name: str, compared: tuple[str, str]
) -> list[Term[Values]]:
    """Terms of the L1 and L2 distances of two values, if their weights are not 0."""
    if section is None:
        return []
    weights = {"l1": (l1, section.weights.l1), "l2": (mse, section.weights.l2)}
    return [
        Term(f"{kind}_{name}", Pair(loss, *compared), weight, section.decay)
        for kind, (loss, weight) in weights.items()
        if weight
    ]


def _spectral_terms(
    losses: AutoencoderLosses, model: Autoencoder, sample_rate: int, teacher: bool
) -> list[Term[Values]]:
    section = losses.spectral
    if section is None:
        return [Term("latent_distill_loss", Pair(mse, "teacher_latents", "latents"))] if teacher else []
    stereo = model.out_channels == 2
    options = {"sample_rate": sample_rate, **arguments(section.config)}
    plain = {k: v for k, v in options.items() if k not in ("w_sum", "w_diff")}
    loss = SumAndDifferenceSTFTLoss(**options) if stereo else MultiResolutionSTFTLoss(**plain)
    weight, decay = section.weights.mrstft, section.decay
    if teacher:
        pairs = {
            "mrstft_loss": ("reals", "decoded"),
            "mrstft_loss_teacher": ("teacher_decoded", "decoded"),
            "mrstft_loss_own_latents_teacher": ("reals", "teacher_decodes_ours"),
            "mrstft_loss_teacher_latents_own": ("reals", "we_decode_theirs"),
        }
        distilled = [Term(n, Pair(loss, a, b), weight * 0.25, decay) for n, (a, b) in pairs.items()]
        return [Term("latent_distill_loss", Pair(mse, "teacher_latents", "latents")), *distilled]
    terms = [Term("mrstft_loss", Pair(loss, "reals", "decoded"), weight, decay)]
    if stereo:
        side = MultiResolutionSTFTLoss(**plain)
        for name, channel in (("left", 0), ("right", 1)):
            one = OneChannel(side, channel)
            terms.append(Term(f"stft_loss_{name}", Pair(one, "reals", "decoded"), weight / 2, decay))
    return terms


def _bottleneck_terms(losses: AutoencoderLosses, model: Autoencoder) -> list[Term[Values]]:
    defaults = dict(model.bottleneck.loss_weights) if model.bottleneck is not None else {}
    section = losses.bottleneck
    configured = dict(section.weights) if section is not None else {}
    decay = section.decay if section is not None else 1.0
    weights = {**defaults, **configured}
    return [Term(loss_name(name), value(name), weight, decay) for name, weight in weights.items()]


def build_metrics(section: Section, sample_rate: int) -> dict[str, nn.Module] | None:
    """Metrics of validation by name; None for the default ones."""
    metrics: dict[str, nn.Module] = {}
    for name, metric in METRICS.items():
        options: Leaf | None = getattr(section.eval_loss_configs, name)
        if options is not None:
            metrics[name] = at_rate(metric, options, sample_rate)
    return metrics or None


def build_autoencoder_demos(config: ModelConfig) -> tuple[DemoRenderer, int] | None:
    """(renderer, steps between demos) for `autoencoder`; None if the config has no demos."""
    section = config.training.demo
    if section is None:
        return None
    demos = AutoencoderDemos(
        sample_rate=config.sample_rate,
        count=section.max_demos,
        force_input_mono=config.training.force_input_mono,
    )
    return demos, section.demo_every
