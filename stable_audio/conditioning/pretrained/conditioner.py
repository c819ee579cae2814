"""What conditioners that read with a pretrained encoder have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.pretrained.cache import TextCache
from stable_audio.conditioning.pretrained.known_mask import known_mask
from stable_audio.conditioning.pretrained.network import LazyNetwork
from stable_audio.conditioning.pretrained.tokens import TextTokens
from stable_audio.conditioning.values import TextValue
from stable_audio.nn.precision import parameter_dtype
from stable_audio.nn.transfer import MadeBeside, to_device

PaddingMode = Literal["zero", "none", "learned"]
"""What stands at padding: zeros, what the encoder returns there, or one learned vector."""

Precision = Literal["stored", "float16", "bfloat16", "float32"]
"""Type of a frozen encoder's weights; "stored": as in its file."""

DTYPES: dict[str, torch.dtype | None] = {
    "stored": None,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


class LoadableEncoder(Protocol):
    """Where an encoder is and how it is loaded."""

    def load(self) -> nn.Module: ...

    def load_trained(self) -> nn.Module: ...

    def identity(self) -> Hashable: ...

    def count(self) -> int: ...


@dataclass(frozen=True)
class ReadingOptions:
    """How a text encoder reads.

    Attributes:
        max_length: tokens per prompt; shorter ones are padded, longer ones cut.
        enable_grad: train the encoder, in float32; it is in checkpoints only then.
        padding_mode: what stands at padding: zeros, the encoder's output there, or a learned vector.
        encoder_dtype: type of a frozen encoder; "stored": as in its file.
    """

    max_length: int = 128
    enable_grad: bool = False
    padding_mode: PaddingMode = "zero"
    encoder_dtype: Precision = "stored"

    def around(self, encoder: LoadableEncoder) -> dict[str, Any]:
        """Keywords of `PretrainedConditioner` for an encoder."""
        network = LazyNetwork(
            load=encoder.load,
            identity=encoder.identity,
            count=encoder.count,
            dtype=DTYPES[self.encoder_dtype],
        )
        return {"train": self.enable_grad, "load_trained": encoder.load_trained, "network": network}


PADDING_STD = 0.02
"""Standard deviation of a learned vector for padding at the start."""


class PretrainedConditioner(Conditioner):
    """Base of conditioners around an encoder that is frozen, and then no part of checkpoints, or trained.

    Args:
        dim: features of the encoder.
        network: the encoder while it is frozen.
        train: make the encoder a submodule, `model`, that trains and is in checkpoints.
        load_trained: returns the encoder to train; on the meta device without its weights.
    """

    def __init__(
        self,
        *,
        dim: int,
        output_dim: int,
        project_out: bool,
        network: LazyNetwork,
        train: bool,
        load_trained: Callable[[], nn.Module],
    ) -> None:
        super().__init__(dim=dim, output_dim=output_dim, project_out=project_out)
        self.network, self.trains = network, train
        if train:
            self.model = load_trained()

    def encoder(self, device: torch.device | str) -> nn.Module:
        """The encoder. A frozen one is loaded to `device` at first use; it moves with this module."""
        return self.model if self.trains else self.network.on(device)

    def followers(self) -> Sequence[nn.Module]:
        return () if self.network.module is None else (self.network.module,)

    def follow(self, fn: Callable[[Tensor], Tensor]) -> None:
        self.network.move(fn)

    def frozen_networks(self) -> Sequence[LazyNetwork]:
        return () if self.trains else (self.network,)

    @contextmanager
    def encoding(self, device: torch.device | str) -> Iterator[None]:
        """Context of the encoder's calls: gradients only where it trains, and its own precision."""
        # Autocast would override the precision of the encoder.
        exact = torch.autocast(torch.device(device).type, enabled=False)
        with exact, torch.set_grad_enabled(self.trains and torch.is_grad_enabled()):
            yield

    def projected(self, features: Tensor) -> Tensor:
        """Features of the encoder -> features of the output."""
        return self.proj_out(features.to(parameter_dtype(self.proj_out)))


class TextFeatures(PretrainedConditioner):
    """Base of conditioners that read text: prompts -> (b l d), or (b 1 d) where `read` pools.

    Args:
        tokens: how texts become tokens.
        padding_mode: what stands at padding.
        keywords: those of `PretrainedConditioner`.
    """

    def __init__(self, *, tokens: TextTokens, padding_mode: PaddingMode = "zero", **keywords: Any) -> None:
        super().__init__(**keywords)
        self.tokens, self.max_length, self.padding_mode = tokens, tokens.max_length, padding_mode
        self.cache: TextCache | None = None
        self._next: tuple[list[Any], MadeBeside] | None = None
        self.padding_embedding: nn.Parameter | None = None
        if padding_mode == "learned":
            self.padding_embedding = nn.Parameter(PADDING_STD * torch.randn(self.output_dim))

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded at first use."""
        return self.tokens.tokenizer

    def text_tokens(self) -> TextTokens | None:
        # Texts whose features are kept need no tokens.
        return self.tokens if self.cache is None else None

    def value_rule(self) -> TextValue:
        return TextValue()

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b prompts -> (b l d), mask (b l); l is 1 where the encoder's features are pooled."""
        features, mask = self.features(values, device)
        return self._padded(self.projected(features), mask), mask

    def features(self, values: Sequence[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b prompts -> the encoder's features (b l d) before the projection, mask (b l).

        A frozen encoder reads prompts that are the same once.
        """
        ready = self._next
        if ready is not None and _are_the_same(values, ready[0]):
            self._next = None
            features, mask = ready[1].here()
            return features, mask
        if self.cache is None:
            rows = None if self.trains else _rows_of_distinct(values)
            if rows is None:
                return self._features(values, device)
            features, mask = self._features(list(rows), device)
            index = to_device(torch.tensor([rows[value] for value in values]), features.device)
            return features.index_select(0, index), mask.index_select(0, index)
        return self.cache(values, partial(self._features, device=device), device)

    def read_next(self, values: Sequence[Any], device: torch.device | str) -> None:
        """Read b prompts now, if the encoder is frozen.

        The next call of `features` with them, on whatever CUDA stream, returns what this has read.
        """
        self._next = None
        if not self.trains:
            self._next = (list(values), MadeBeside(*self.features(values, device)))

    def cache_texts(self, folder: Path) -> bool:
        """Keep the features of texts in `folder`; returns False for an encoder that trains, whose are not."""
        if not self.trains:
            weights = (self.network.identity(), str(self.network.dtype))
            self.cache = TextCache(
                folder,
                meaning=(weights, self.meaning()),
                whole=self.padding_mode == "none",
                drop=self.network.drop,
            )
        return not self.trains

    def read_ahead(self, values: Sequence[Any], device: torch.device | str) -> int:
        """Store the features of b prompts in the cache, which the model must have, and free the encoder.

        Returns:
            how many prompts were read; the others were there.
        """
        assert self.cache is not None
        missing = self.cache.missing(values)
        for value in missing:
            self.features([value], device)
        self.network.drop()
        return len(missing)

    def _features(self, values: Sequence[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        encoder = self.encoder(device)
        ids, known = self.tokens(values)
        ids, mask = to_device(ids, device), to_device(known, device)
        with self.encoding(device), known_mask(mask, known):
            return self.read(encoder, ids, mask)

    def read(self, network: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b l) and their mask -> the encoder's features (b l d) or, pooled, (b 1 d); their mask."""
        return network(input_ids=ids, attention_mask=mask)["last_hidden_state"], mask

    def meaning(self) -> Hashable:
        """What the features of a text depend on, beside the weights of the encoder."""
        return (type(self).__name__, self.tokens.recipe)

    def _padded(self, features: Tensor, mask: Tensor) -> Tensor:
        if self.padding_mode == "none":
            return features
        if self.padding_embedding is None:
            return features * mask.unsqueeze(-1)
        return torch.where(mask.unsqueeze(-1), features, self.padding_embedding.to(features.dtype))


def _are_the_same(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether two batches are the same texts."""
    return all(isinstance(text, str) for text in (*values, *others)) and list(values) == list(others)


def _rows_of_distinct(values: Sequence[Any]) -> dict[Any, int] | None:
    """Text -> its place among the different ones; None if no two are the same, or some are tokens already."""
    if not all(isinstance(value, str) for value in values):
        return None
    rows = {value: row for row, value in enumerate(dict.fromkeys(values))}
    return rows if len(rows) < len(values) else None
