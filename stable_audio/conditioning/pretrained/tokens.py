"""Prompts -> token ids, here or ahead of time in the processes that load data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.tokenizers import ONE_AT_A_TIME, load_tokenizer

TokenRecipe = tuple[Any, ...]
"""What tokens depend on: equal recipes give equal tokens."""


class TokenisedText(str):
    """A text with its tokens; wherever no tokens are needed, it is the text.

    Args:
        text: the text.
        recipe: what its tokens depend on; see `TextTokens.recipe`.
        ids: the tokens (l,).
        mask: which of them are no padding (l,).
    """

    recipe: TokenRecipe
    ids: tuple[int, ...]
    mask: tuple[bool, ...]

    def __new__(
        cls, text: str, recipe: TokenRecipe = (), ids: Sequence[int] = (), mask: Sequence[bool] = ()
    ) -> TokenisedText:
        self = super().__new__(cls, text)
        self.recipe, self.ids, self.mask = recipe, tuple(ids), tuple(mask)
        return self


class TextTokens:
    """Texts -> token ids of a Hugging Face tokenizer, which is loaded at first use.

    Args:
        source: where the tokenizer is, or the network that it belongs to.
        max_length: tokens per text; shorter ones are padded to it, longer ones cut.
        prefix: text that precedes each text.

    Raises:
        ValueError: max_length below 1.
    """

    def __init__(self, *, source: NetworkSource, max_length: int, prefix: str = "") -> None:
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; it must be at least 1")
        self.source, self.max_length, self.prefix = source.tokenizer, max_length, prefix
        self._tokenizer: Any = None

    @property
    def recipe(self) -> TokenRecipe:
        """What the tokens depend on."""
        return (self.source.name, self.source.subfolder, self.max_length, self.prefix)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded at first use.

        Raises:
            ImportError, OSError: see `load_tokenizer`.
        """
        with ONE_AT_A_TIME:
            if self._tokenizer is None:
                self._tokenizer = self.load()
            return self._tokenizer

    def load(self) -> Any:
        """The tokenizer, which has a padding token; models that only continue texts never needed one."""
        tokenizer = load_tokenizer(self.source.name, subfolder=self.source.subfolder)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ValueError(
                f"the tokenizer '{self.source.name}' has neither a padding nor an end token; use one that has"
            )
        return tokenizer

    def __call__(self, texts: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """b texts -> ids (b l), mask (b l) bool. Texts with tokens of the same recipe keep them."""
        rows = [t if isinstance(t, TokenisedText) and t.recipe == self.recipe else None for t in texts]
        missing = [str(t) for t, row in zip(texts, rows) if row is None]
        fresh = iter(self.tokenised(missing) if missing else ())
        complete = [row if row is not None else next(fresh) for row in rows]
        return torch.tensor([r.ids for r in complete]), torch.tensor([r.mask for r in complete])

    def trimmed(self, texts: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """b texts -> ids (b l), mask (b l) bool; l is the longest text's. For padding on the right."""
        ids, mask = self(texts)
        length = max(1, int(mask.sum(dim=1).max()))
        return ids[:, :length], mask[:, :length]

    def tokenised(self, texts: Sequence[str]) -> list[TokenisedText]:
        """Texts with their tokens."""
        with ONE_AT_A_TIME:
            batch = self.tokenizer(
                [self.prefix + t for t in texts],
                truncation=True,
                max_length=self.max_length,
                padding="max_length",
            )
        rows = zip(texts, batch["input_ids"], batch["attention_mask"])
        return [TokenisedText(text, self.recipe, ids, [m == 1 for m in mask]) for text, ids, mask in rows]

    def __getstate__(self) -> dict[str, Any]:
        # Other processes load the tokenizer themselves: it holds locks and native memory.
        return {**self.__dict__, "_tokenizer": None}
