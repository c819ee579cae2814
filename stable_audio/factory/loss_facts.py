"""Build what trains an autoencoder beside its network, so that options that do not fit are named at load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.context import mapping
from stable_audio.config.sections.autoencoder import (
    AnyDiscriminator,
    MelOptions,
    STFTOptions,
    ValidationMetrics,
)
from stable_audio.factory.components import at_rate, create
from stable_audio.pretransforms.discriminators import DISCRIMINATORS
from stable_audio.pretransforms.losses import MultiResolutionMelLoss, SumAndDifferenceSTFTLoss
from stable_audio.pretransforms.metrics import METRICS

Part = tuple[Loc, Any, Any, Callable[[Any], Any]]
"""Place of the options, the section, its schema, and what builds it."""


def parts_of_training(data: Mapping[str, Any]) -> Iterator[Part]:
    """The discriminator, losses and metrics that the `training` section of an autoencoder describes."""
    training, rate = mapping(data.get("training")), data.get("sample_rate")
    if not isinstance(rate, int) or isinstance(rate, bool) or rate <= 0:
        return
    losses, loc = mapping(training.get("loss_configs")), ("training", "loss_configs")
    build = _discriminator(data.get("sample_size"))
    yield (*loc, "discriminator", "config"), losses.get("discriminator"), AnyDiscriminator, build
    for name, schema, loss in (
        ("spectral", STFTOptions, SumAndDifferenceSTFTLoss),
        ("mrmel", MelOptions, MultiResolutionMelLoss),
    ):
        options = mapping(losses.get(name)).get("config")
        yield (*loc, name, "config"), options, schema, partial(at_rate, loss, sample_rate=rate)
    metrics = mapping(training.get("eval_loss_configs"))
    for name in sorted(metrics.keys() & METRICS.keys() - {"pesq"}):  # which needs its package
        one = {name: metrics[name]}
        yield ("training", "eval_loss_configs", name), one, ValidationMetrics, _metric(name, rate)


def _discriminator(size: Any) -> Callable[[Any], Any]:
    """What builds a discriminator, and checks that it can judge clips of `size` samples."""

    def build(section: Any) -> Any:
        discriminator = create(section, DISCRIMINATORS, in_channels=1)
        if isinstance(size, int):
            discriminator.check_length(size)
        return discriminator

    return build


def _metric(name: str, rate: int) -> Callable[[Any], Any]:
    return lambda metrics: (
        None if (options := getattr(metrics, name)) is None else at_rate(METRICS[name], options, rate)
    )
