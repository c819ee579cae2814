"""What the processes that load data do with texts, so that the one that trains need not wait for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stable_audio.conditioning.pretrained.tokens import TextTokens
from stable_audio.conditioning.values import ValueCheck
from stable_audio.types import Metadata


@dataclass(frozen=True)
class TextPreparation:
    """Tokenises the texts of a batch; texts stay texts, see `TokenisedText`.

    Attributes:
        check: says where the value of a conditioner is in the metadata.
        tokens: conditioner id -> how its texts become tokens.
    """

    check: ValueCheck
    tokens: Mapping[str, TextTokens]

    def __call__(self, items: Sequence[Metadata]) -> list[Metadata]:
        """The metadata of b clips, which the check has accepted, with their texts tokenised."""
        prepared = [dict(item) for item in items]
        for key, tokens in self.tokens.items():
            texts = [self.check.value(item, key) for item in items]
            for item, text in zip(prepared, tokens.tokenised([str(t) for t in texts])):
                item[key] = text
        return prepared

    def load(self) -> TextPreparation:
        """Load every tokenizer, so that a missing one is an error here and not in a process that loads data.

        Raises:
            ImportError, OSError: a tokenizer cannot be loaded.
        """
        # Several processes tokenise already; threads in each would make the library warn at every fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        for tokens in self.tokens.values():
            _ = tokens.tokenizer
        return self
