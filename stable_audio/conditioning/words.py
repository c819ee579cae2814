"""Text as words with a learned embedding each, for models that learn to read from their own captions."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.characters import shown
from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.values import TextValue
from stable_audio.nn.transfer import to_device

logger = logging.getLogger(__name__)

WORD_STD, POSITION_STD = 0.5, 0.2
"""Standard deviations at the start, of the embedding of a word and of a position."""

_WORD = re.compile(r"[\w#'-]+|[^\w\s]")


class WordTokenizer:
    """Words as rows of a table, found by hashing, so that no vocabulary file is needed.

    A word is a run of letters, digits, `_`, `#`, `'` and `-` ("C#4", "hi-hat"); any other mark is a word of
    its own. Upper and lower case are the same, and so are forms that differ in width (Unicode NFKC). The rows
    are the same on every machine.

    Args:
        vocab_size: rows of the table.
        hashes: rows per word. The embedding of a word is the sum of its rows: Bloom embeddings (Serrà and
            Karatzoglou, 2017), where two words are one to the model only if all their rows agree.
        max_length: words per prompt; longer prompts are cut, with one warning.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(self, *, vocab_size: int, hashes: int, max_length: int) -> None:
        for key, size in (("vocab_size", vocab_size), ("hashes", hashes), ("max_length", max_length)):
            if size < 1:
                raise ValueError(f"{key} is {size}; it must be at least 1")
        self.vocab_size, self.hashes, self.max_length = vocab_size, hashes, max_length
        self._warned = False

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """b prompts -> rows (b max_length hashes), 0 at padding, and mask (b max_length) bool."""
        prompts = [self.words(text) for text in texts]
        padding = [0] * self.hashes
        rows = [
            [*(self.rows(word) for word in words), *[padding] * (self.max_length - len(words))]
            for words in prompts
        ]
        lengths = torch.tensor([len(words) for words in prompts])
        return torch.tensor(rows), torch.arange(self.max_length) < lengths.unsqueeze(-1)

    def words(self, text: str) -> list[str]:
        """The words of a prompt, at most `max_length`."""
        # Folding the case can give forms that NFKC replaces, hence once before and once after it.
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        words = _WORD.findall(folded)
        if len(words) > self.max_length and not self._warned:
            self._warned = True
            message = "prompt of %d words cut to %d (raise 'max_length'): %.60s"
            logger.warning(message, len(words), self.max_length, shown(text))
        return words[: self.max_length]

    def rows(self, word: str) -> list[int]:
        """The `hashes` rows of a word as `words` returns it."""
        # Of a CRC the row with one prefix would determine the row with another for words of one length: it
        # is linear. JSON may hold half a surrogate pair, which plain UTF-8 refuses.
        data = word.encode("utf-8", "surrogatepass")
        digests = (hashlib.blake2b(b"%d:" % n + data, digest_size=8).digest() for n in range(self.hashes))
        return [int.from_bytes(digest, "big") % self.vocab_size for digest in digests]


class WordsConditioner(Conditioner):
    """Prompts -> an embedding per word plus one of its position, zero at padding.

    Args:
        vocab_size: rows of the table of words.
        hashes: rows per word, which are summed; two words are one to the model only if all their rows agree.
        max_length: words per prompt; shorter ones are padded, longer ones cut, with one warning.
        project_out: add a linear output layer.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(
        self,
        *,
        output_dim: int,
        vocab_size: int = 2048,
        hashes: int = 2,
        max_length: int = 16,
        project_out: bool = False,
    ) -> None:
        super().__init__(dim=output_dim, output_dim=output_dim, project_out=project_out)
        self.tokenizer = WordTokenizer(vocab_size=vocab_size, hashes=hashes, max_length=max_length)
        self.max_length = max_length
        self.word_embedder = nn.Embedding(vocab_size, output_dim)
        self.position_embedder = nn.Embedding(max_length, output_dim)
        nn.init.normal_(self.word_embedder.weight, std=WORD_STD / hashes**0.5)
        nn.init.normal_(self.position_embedder.weight, std=POSITION_STD)

    def value_rule(self) -> TextValue:
        return TextValue()

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b prompts -> (b max_length d), mask (b max_length)."""
        rows, mask = self.tokenizer([str(v) for v in values])
        rows, mask = to_device(rows, device), to_device(mask, device)
        positions = torch.arange(self.max_length, device=rows.device)
        tokens = self.word_embedder(rows).sum(dim=2) + self.position_embedder(positions)
        # The bias of proj_out would fill the padding.
        return self.proj_out(tokens) * mask.unsqueeze(-1), mask
