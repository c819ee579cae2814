"""Features of texts on disk, so that a frozen encoder reads each text once and need not stay in memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.nn.transfer import to_device
from stable_audio.stored.safetensors_files import read_safetensors, write_safetensors

PATIENCE = 64
"""Calls in a row without a new text after which the encoder is dropped; doubled each time it is dropped."""

FeaturesAndMask = tuple[Tensor, Tensor]
"""Features (l d) and their mask (l)."""

IN_MEMORY = 256 * 2**20
"""Bytes of features that stay in memory: of some 3,000 captions of 30 tokens by T5-base."""


class TextCache:
    """One file per text with its features, in a folder that several runs, and processes of one, may share.

    Those that were asked for last stay in memory, too.

    Args:
        folder: folder of the files; it is made when the first one is written.
        meaning: what the features depend on beside the text: weights of the encoder, their type, its layer.
        whole: keep what the encoder returns at padding, too, for conditioners that pass it on.
        drop: frees the encoder's memory.
        patience: calls in a row without a new text after which the encoder is dropped.
        in_memory: bytes of features that stay in memory.
    """

    def __init__(
        self,
        folder: Path,
        *,
        meaning: Hashable,
        whole: bool,
        drop: Callable[[], object],
        patience: int = PATIENCE,
        in_memory: int = IN_MEMORY,
    ) -> None:
        self.folder, self.whole, self.drop, self.patience = folder, whole, drop, patience
        self._recent = _RecentFeatures(in_memory)
        self._meaning = repr((meaning, whole))
        self._calls_without_reading: int | None = None  # None: the encoder is not loaded

    def __call__(
        self, texts: Sequence[Any], read: Callable[[list[Any]], FeaturesAndMask], device: torch.device | str
    ) -> FeaturesAndMask:
        """b texts -> features (b l d) and mask (b l) on `device`.

        Args:
            read: texts -> the same two tensors, by the encoder. It gets one text at a time, so that features
                do not depend on the batch in which a text comes first: after a resume that is another one.
        """
        named = {str(text): text for text in texts}
        pairs = self._at_hand(list(named))
        missing = [name for name in named if name not in pairs]
        for name in missing:
            features, mask = read([named[name]])
            pairs[name] = self._recent.keep(name, self._store(name, features[0], mask[0]))
        self._count(bool(missing))
        rows = [_complete(*pairs[str(text)]) for text in texts]
        features = torch.stack([row[0] for row in rows])
        mask = torch.stack([row[1] for row in rows])
        return to_device(features, device), to_device(mask, device)

    def missing(self, texts: Sequence[Any]) -> list[Any]:
        """Those of the texts that are not in the folder, each once."""
        named = {str(text): text for text in texts}
        at_hand = self._at_hand(list(named))
        return [text for name, text in named.items() if name not in at_hand]

    def _at_hand(self, names: Sequence[str]) -> dict[str, FeaturesAndMask]:
        """Different texts -> those whose features are in memory or in the folder, which stay in memory."""
        pairs: dict[str, FeaturesAndMask] = {}
        for name in names:
            pair = self._recent.get(name)
            if pair is None and (pair := self._stored(name)) is not None:
                self._recent.keep(name, pair)
            if pair is not None:
                pairs[name] = pair
        return pairs

    def _count(self, reading: bool) -> None:
        if reading:
            self._calls_without_reading = 0
        elif self._calls_without_reading is not None:
            self._calls_without_reading += 1
            if self._calls_without_reading >= self.patience:
                self.drop()
                self._calls_without_reading, self.patience = None, 2 * self.patience

    def _file(self, text: str) -> Path:
        # JSON may hold half a surrogate pair, which plain UTF-8 refuses.
        data = f"{self._meaning}\n{text}".encode("utf-8", "surrogatepass")
        name = hashlib.sha256(data).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.safetensors"

    def _stored(self, text: str) -> FeaturesAndMask | None:
        try:
            tensors, _ = read_safetensors(self._file(text))
            return tensors["features"].clone(), tensors["mask"].bool()  # not the mapped file
        except (ValueError, KeyError):  # absent, or damaged: it is made anew
            return None

    def _store(self, text: str, features: Tensor, mask: Tensor) -> FeaturesAndMask:
        features, mask = features.detach().cpu(), mask.cpu()
        positions = torch.arange(len(mask)) if self.whole else mask.nonzero()[:, 0]
        kept = {"features": features[positions].contiguous(), "mask": mask.to(torch.uint8)}
        write_safetensors(self._file(text), kept)
        return kept["features"], mask.bool()


class _RecentFeatures:
    """Features as files hold them, by text; those asked for longest ago are dropped first.

    Args:
        most: bytes of features.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._pairs: OrderedDict[str, FeaturesAndMask] = OrderedDict()
        self._bytes = 0

    def get(self, text: str) -> FeaturesAndMask | None:
        pair = self._pairs.get(text)
        if pair is not None:
            self._pairs.move_to_end(text)
        return pair

    def keep(self, text: str, pair: FeaturesAndMask) -> FeaturesAndMask:
        """Keep a pair that is not there yet, and return it."""
        self._pairs[text] = pair
        self._bytes += pair[0].nbytes
        while self._bytes > self.most:
            _, (features, _) = self._pairs.popitem(last=False)
            self._bytes -= features.nbytes
        return pair


def _complete(features: Tensor, mask: Tensor) -> FeaturesAndMask:
    """Features of valid positions, or of all, -> features (l d), zero elsewhere; and the mask."""
    if len(features) == len(mask):
        return features, mask
    whole = features.new_zeros(len(mask), features.shape[1])
    whole[mask] = features
    return whole, mask
