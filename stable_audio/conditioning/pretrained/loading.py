"""Load networks with the transformers library, and refuse files that hold another one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.tokenizers import ONE_AT_A_TIME


def load_network(
    cls: Any,
    source: NetworkSource,
    *,
    dtype: torch.dtype | None = None,
    unused: Collection[str] = (),
    **options: Any,
) -> nn.Module:
    """The network of a class of transformers, with its weights, on the CPU.

    Args:
        dtype: type of the weights; None: as stored.
        unused: beginnings of weights that may be missing, since they have no influence on the result.
        options: further arguments of `from_pretrained`.

    Raises:
        OSError: there is no such network, or some of its weights are missing.
    """
    name, place = source.arguments()
    try:
        with _without_reports(), torch.random.fork_rng(devices=[]):  # missing weights are drawn at random
            network, report = cls.from_pretrained(
                name, dtype="auto" if dtype is None else dtype, output_loading_info=True, **place, **options
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise source.failure(error) from error
    missing = sorted(k for k in report["missing_keys"] if not k.startswith(tuple(unused)))
    if missing:
        raise OSError(
            f"{source.key} '{source.name}' holds another kind of network: {len(missing)} weights of "
            f"{cls.__name__} are missing there, such as '{missing[0]}'; name a model of that kind"
        )
    return network


@contextmanager
def _without_reports() -> Iterator[None]:
    """Hide transformers' table of weights that were not used, such as those of the other half of a CLAP."""
    log = logging.getLogger("transformers")
    with ONE_AT_A_TIME:
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def on_meta() -> bool:
    """Whether networks are built as shapes, or to be filled later, so that no weights must be loaded."""
    return torch.empty(0).is_meta


def parameters_of(build: Callable[[], nn.Module]) -> int:
    """Number of parameters of what `build` returns, counted on shapes."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


def require_kind(source: NetworkSource, config: Any, kinds: Collection[str]) -> None:
    """Raise unless the model is of one of these kinds.

    Args:
        config: its config, a dict or transformers' object.
        kinds: allowed values of its `model_type`.

    Raises:
        ValueError: it is of another one.
    """
    kind = config.get("model_type") if isinstance(config, dict) else config.model_type
    if kind not in kinds:
        raise ValueError(
            f"{source.key} '{source.name}' holds a model of the kind '{kind}', not "
            f"{' or '.join(sorted(kinds))}; the conditioner 'text_encoder' reads text with any encoder of "
            "transformers"
        )


def require_layer(key: str, layer: int, layers: int) -> None:
    """Raise unless an encoder of `layers` layers has the hidden state `layer`; 0 is its input, -1 the last.

    Raises:
        ValueError: it has not.
    """
    if not -layers - 1 <= layer <= layers:
        raise ValueError(
            f"{key} is {layer}, but the encoder has the hidden states 0 (its input) to {layers}, or -1 (the "
            f"last) to {-layers - 1}"
        )
