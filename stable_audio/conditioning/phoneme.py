"""English text as phonemes, each with a learned embedding. Needs the extra `[phoneme]`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.characters import shown
from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.tokenizers import ONE_AT_A_TIME
from stable_audio.conditioning.values import TextValue
from stable_audio.nn.transfer import to_device

logger = logging.getLogger(__name__)

_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
_OTHERS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T"),
    *("TH", "UW", "V", "W", "Y", "Z", "ZH"),
)
PHONEMES: tuple[str, ...] = (
    *("<pad>", "<unk>", "<s>", "</s>"),
    *sorted([*_OTHERS, *(vowel + stress for vowel in _VOWELS for stress in "012")]),
)
"""The vocabulary of g2p_en, in its order: ARPAbet, vowels with their stress (0 none, 1 first, 2 second)."""

PAD, OTHER, FIRST = 0, 1, 2
"""Rows of padding, of all that is no phoneme (spaces, punctuation), and of the first phoneme."""

Phonemizer = Callable[[str], "list[str]"]


class PhonemeConditioner(Conditioner):
    """Texts -> phoneme embeddings, zero at padding.

    Args:
        max_length: phonemes per text; shorter ones are padded, longer ones cut, with one warning.
        legacy_padding: for checkpoints of stable-audio-tools: pad to the longest text of the batch with a
            row of the embedding, mark padding as valid, and cut nothing.
        g2p: function from text to phonemes; None uses g2p_en.
        phonemes: every phoneme that `g2p` may return, in the order of the embedding's rows.

    Raises:
        ValueError: max_length below 1.
    """

    def __init__(
        self,
        *,
        output_dim: int,
        max_length: int = 1024,
        project_out: bool = False,
        legacy_padding: bool = False,
        g2p: Phonemizer | None = None,
        phonemes: tuple[str, ...] = PHONEMES,
    ) -> None:
        super().__init__(dim=output_dim, output_dim=output_dim, project_out=project_out)
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; it must be at least 1")
        self.max_length, self.legacy_padding = max_length, legacy_padding
        self.rows = {phoneme: FIRST + row for row, phoneme in enumerate(phonemes)}
        self.phoneme_embedder = nn.Embedding(FIRST + len(phonemes), output_dim)
        self._g2p, self._warned = g2p, False

    def value_rule(self) -> TextValue:
        return TextValue()

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b texts -> (b max_length d), mask (b max_length)."""
        items = [self._ids(str(v)) for v in values]
        length = max(map(len, items)) if self.legacy_padding else self.max_length
        ids = to_device(torch.tensor([item + [PAD] * (length - len(item)) for item in items]).long(), device)
        lengths = to_device(torch.tensor([len(item) for item in items]), device)
        embedded = self.proj_out(self.phoneme_embedder(ids))
        if self.legacy_padding:
            return embedded, torch.ones_like(ids, dtype=torch.bool)
        mask = torch.arange(length, device=device) < lengths.unsqueeze(-1)
        return embedded * mask.unsqueeze(-1), mask

    @cached_property
    def g2p(self) -> Phonemizer:
        """Text -> phonemes; g2p_en is loaded at first use."""
        return self._g2p if self._g2p is not None else load_g2p()

    def _phonemes(self, text: str) -> list[str]:
        with ONE_AT_A_TIME:
            return self.g2p(text)

    def _ids(self, text: str) -> list[int]:
        rows = [self.rows.get(phoneme, OTHER) for phoneme in self._phonemes(text)]
        if self.legacy_padding or len(rows) <= self.max_length:
            return rows
        if not self._warned:
            self._warned = True
            message = "text of %d phonemes cut to %d (raise 'max_length'): %.60s"
            logger.warning(message, len(rows), self.max_length, shown(text))
        return rows[: self.max_length]


def load_g2p() -> Phonemizer:
    """The converter of g2p_en (Park and Kim 2019).

    Raises:
        ImportError: the package is missing; the message names the extra.
    """
    try:
        from g2p_en import G2p
    except ImportError as error:
        raise ImportError('phonemes need g2p_en: pip install "stable-audio[phoneme]"') from error
    return G2p()
