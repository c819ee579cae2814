"""Weights that a file leaves to another one, its base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor, nn

from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.checksums import content_hash
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.files import read_checkpoint, resolve
from stable_audio.checkpoints.stored_weights import StoredWeights
from stable_audio.stored.hub_names import name_of_cached, parse


def base_of(stored: StoredWeights, *, use_ema: bool, name: str | None = None) -> BaseFile:
    """How other files refer to `stored`.

    Args:
        use_ema: as for `read_checkpoint`.
        name: of the file beside those that refer to it; None: it stays where it is.
    """
    path = name_of_cached(stored.path) or stored.path.resolve()
    return BaseFile(name or str(path), _hash(stored), use_ema)


def read_base(base: BaseFile, referring: Path) -> StoredWeights:
    """The weights that the file `referring` leaves out.

    Raises:
        CheckpointError: the base is not there, or has other weights by now.
    """
    others: list[tuple[Path, str]] = []
    for path in _places(base, referring):
        stored = read_checkpoint(path, use_ema=base.use_ema)
        if (value := _hash(stored)) == base.hash:
            return stored
        others.append((path, value))
    name = Path(base.path).name
    if not others:
        raise CheckpointError(
            f"{referring}: holds what a run has changed of the weights in {base.path}, which is not there; "
            f"put that file back, or beside this one as {name}"
        )
    path, value = others[0]
    raise CheckpointError(
        f"{referring}: holds what a run has changed of weights with the hash {base.hash[:16]}, but {path} "
        f"has the hash {value[:16]}; put the file that it was beside this one as {name}"
    )


def _places(base: BaseFile, referring: Path) -> Iterator[Path]:
    """Where files are that may be the base, those on disk first."""
    yield from base.candidates(referring)
    if parse(base.path) is not None:
        yield resolve(base.path)


def tensors_of(model: nn.Module, keys: Iterable[str]) -> list[Tensor]:
    """Parameters and buffers of a model by the names of its weights."""
    state = model.state_dict(keep_vars=True)
    return [state[key] for key in keys]


def keys_of(model: nn.Module, tensors: Iterable[Tensor]) -> set[str]:
    """What a model calls these parameters and buffers, wherever transforms have put them."""
    identities = {id(t) for t in tensors}
    return {key for key, t in model.state_dict(keep_vars=True).items() if id(t) in identities}


def _hash(stored: StoredWeights) -> str:
    """Of a file that has a base itself: of its own weights together with the hash of those."""
    adapter = stored.adapter
    own = content_hash({**stored.tensors, **(adapter.tensors() if adapter is not None else {})})
    if stored.base is not None:
        return f"{own}-{stored.base.hash}"
    base = adapter.passport.base if adapter is not None and adapter.passport is not None else None
    return own if base is None else f"{own}-{base.hash}"
