"""Text -> token ids: a byte-level vocabulary that needs no file, or Hugging Face tokenizers."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stable_audio.characters import shown
from stable_audio.network import load_failure, offline

logger = logging.getLogger(__name__)

BYTES = 256
SPECIAL = 2


class Tokenizer(Protocol):
    """Prompts -> ids (b l) and mask (b l) bool; every row starts with BOS and ends with EOS."""

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]: ...


class ByteTokenizer:
    """UTF-8 bytes as ids 0..255; the last two ids of the vocabulary are BOS and EOS, as in CLIP.

    Args:
        vocab_size: size of the embedding table it feeds, at least 258.
        max_length: tokens per prompt, BOS and EOS included; longer prompts are cut, with one warning.
    """

    def __init__(self, *, vocab_size: int, max_length: int) -> None:
        if vocab_size < BYTES + SPECIAL:
            raise ValueError(
                f"vocab_size is {vocab_size}, but bytes with BOS and EOS need at least {BYTES + SPECIAL}"
            )
        self.bos, self.eos = vocab_size - 2, vocab_size - 1
        self.max_length = max_length
        self._warned = False

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """b prompts -> ids (b l), mask (b l); l is the longest prompt of the batch."""
        rows = [self._ids(text) for text in texts]
        length = max(len(r) for r in rows)
        ids = torch.tensor([r + [self.eos] * (length - len(r)) for r in rows])
        mask = torch.tensor([[True] * len(r) + [False] * (length - len(r)) for r in rows])
        return ids, mask

    def _ids(self, text: str) -> list[int]:
        data = " ".join(text.lower().split()).encode("utf-8", "surrogatepass")
        max_bytes = self.max_length - SPECIAL
        if len(data) > max_bytes and not self._warned:
            self._warned = True
            message = "prompt of %d bytes cut to %d (raise 'max_length'): %.60s"
            logger.warning(message, len(data), max_bytes, shown(text))
        return [self.bos, *data[:max_bytes], self.eos]


ONE_AT_A_TIME = threading.RLock()
"""Lock for loading at first use, and for calls of tokenizers, which change their settings."""


def load_tokenizer(name: str, *, subfolder: str = "") -> Any:
    """A Hugging Face tokenizer from a local folder or hub id.

    Args:
        name: the folder, owner/name on the hub, or owner/name@revision.
        subfolder: folder within it.

    Raises:
        ImportError: transformers is missing; the message names the extra.
        OSError: there is no usable tokenizer under `name`.
    """
    transformers = import_transformers()
    folder = Path(name).expanduser()
    place, _, revision = (str(folder), "", "") if folder.exists() else name.partition("@")
    options = {k: v for k, v in (("subfolder", subfolder), ("revision", revision)) if v}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            place, local_files_only=offline(place), **options
        )
    except (OSError, ValueError) as error:
        raise OSError(
            f"no tokenizer at '{name}': {load_failure(place, error)}; give a folder that holds one, or "
            "connect to the hub"
        ) from error
    _require_vocabulary(str(folder / subfolder), tokenizer)
    return tokenizer


def _require_vocabulary(name: str, tokenizer: Any) -> None:
    """Refuse a folder without vocabulary, from which transformers would build an empty tokenizer."""
    files = sorted(set(type(tokenizer).vocab_files_names.values()))
    if Path(name).is_dir() and files and not any((Path(name) / file).is_file() for file in files):
        raise OSError(
            f"no tokenizer at '{name}': the folder has none of {', '.join(files)}; save the tokenizer there, "
            "beside its model"
        )


def import_transformers() -> Any:
    """The transformers package; the ImportError names the extra that installs it."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError('text encoders need transformers: pip install "stable-audio[text]"') from error
    return transformers
