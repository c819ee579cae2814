"""A learned embedding per token of a Hugging Face tokenizer. Needs the extra `[text]`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.tokenizers import ONE_AT_A_TIME, load_tokenizer, padded_ids
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
        self.special_tokens = list(special_tokens or [])
        self._tokenizer: Any = None
        self.vocab_size = len(self.tokenizer) if vocab_size is None else vocab_size
        self.token_embedder = nn.Embedding(self.vocab_size, output_dim)
        self.abs_pos_emb = LearnedPositions(output_dim, max_length=max_length) if use_abs_pos_emb else None

    def value_rule(self) -> TextValue:
        return TextValue()

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b texts -> (b max_length d), mask (b max_length)."""
        batch = padded_ids(lambda: self.tokenizer, values, self.max_length)
        ids = to_device(batch["input_ids"], device)
        mask = to_device(batch["attention_mask"].bool(), device)
        tokens = self.proj_out(self.token_embedder(ids)) * mask.unsqueeze(-1)
        return tokens if self.abs_pos_emb is None else tokens + self.abs_pos_emb(tokens), mask

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded at first use."""
        with ONE_AT_A_TIME:
            if self._tokenizer is None:
                self._tokenizer = self._load()
            return self._tokenizer

    def _load(self) -> Any:
        tokenizer = load_tokenizer(self.tokenizer_name)
        if self.special_tokens:
            tokenizer.add_tokens(self.special_tokens, special_tokens=True)
        if tokenizer.pad_token is None:
            raise ValueError(f"the tokenizer '{self.tokenizer_name}' has no padding token; use one that has")
        rows = getattr(self, "vocab_size", None)
        if rows is not None and len(tokenizer) > rows:
            raise ValueError(
                f"the tokenizer '{self.tokenizer_name}' has {len(tokenizer)} tokens, but vocab_size is {rows}"
            )
        return tokenizer
