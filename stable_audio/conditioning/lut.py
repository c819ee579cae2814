"""A learned embedding per token of a Hugging Face tokenizer. Needs the extra `[text]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.pretrained.tokens import TextTokens, TokenRecipe
from stable_audio.conditioning.tokenizers import load_tokenizer
from stable_audio.conditioning.values import TextValue
from stable_audio.nn.embeddings import LearnedPositions
from stable_audio.nn.transfer import to_device


class LookUpConditioner(Conditioner):
    """Texts -> token embeddings, zero at padding, optionally plus learned positions.

    Args:
        tokenizer_name: local folder or hub id.
        max_length: tokens per text; shorter ones are padded, longer ones cut.
        use_abs_pos_emb: add a learned embedding of the position, to padding as well.
        special_tokens: tokens to add to the vocabulary of the tokenizer.
        vocab_size: rows of the embedding; None: as the tokenizer, which is then needed to build the model.

    Raises:
        ValueError: sizes below 1, or a tokenizer that cannot pad or that has more tokens than `vocab_size`.
    """

    def __init__(
        self,
        *,
        output_dim: int,
        tokenizer_name: str,
        max_length: int = 1024,
        use_abs_pos_emb: bool = False,
        project_out: bool = False,
        special_tokens: list[str] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__(dim=output_dim, output_dim=output_dim, project_out=project_out)
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; it must be at least 1")
        self.tokenizer_name, self.max_length = tokenizer_name, max_length
        source = NetworkSource(tokenizer_name, "tokenizer_name")
        self.tokens = TableTokens(
            source=source, max_length=max_length, special_tokens=special_tokens or (), rows=vocab_size
        )
        self.vocab_size = len(self.tokenizer) if vocab_size is None else vocab_size
        self.token_embedder = nn.Embedding(self.vocab_size, output_dim)
        self.abs_pos_emb = LearnedPositions(output_dim, max_length=max_length) if use_abs_pos_emb else None

    def value_rule(self) -> TextValue:
        return TextValue()

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b texts -> (b max_length d), mask (b max_length)."""
        ids, mask = self.tokens(values)
        ids, mask = to_device(ids, device), to_device(mask, device)
        tokens = self.proj_out(self.token_embedder(ids)) * mask.unsqueeze(-1)
        return tokens if self.abs_pos_emb is None else tokens + self.abs_pos_emb(tokens), mask

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded at first use."""
        return self.tokens.tokenizer

    def text_tokens(self) -> TextTokens:
        return self.tokens


class TableTokens(TextTokens):
    """Texts -> rows of a table.

    Args:
        source: where the tokenizer is.
        max_length: tokens per text.
        special_tokens: tokens to add to its vocabulary.
        rows: rows of the table; None: as many as it needs.
    """

    def __init__(
        self, *, source: NetworkSource, max_length: int, special_tokens: Sequence[str], rows: int | None
    ) -> None:
        super().__init__(source=source, max_length=max_length)
        self.special_tokens, self.rows = tuple(special_tokens), rows

    @property
    def recipe(self) -> TokenRecipe:
        return (*super().recipe, self.special_tokens)

    def load(self) -> Any:
        name = self.source.name
        tokenizer = load_tokenizer(name)
        if self.special_tokens:
            tokenizer.add_tokens(list(self.special_tokens), special_tokens=True)
        if tokenizer.pad_token is None:
            raise ValueError(f"the tokenizer '{name}' has no padding token; use one that has")
        if self.rows is not None and len(tokenizer) > self.rows:
            raise ValueError(
                f"the tokenizer '{name}' has {len(tokenizer)} tokens, but vocab_size is {self.rows}"
            )
        return tokenizer
