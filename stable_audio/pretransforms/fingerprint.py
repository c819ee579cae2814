"""A hash of a pretransform, which guards against using its latents with another one."""

from __future__ import annotations

import hashlib

from stable_audio.nn.hashing import comparable
from stable_audio.pretransforms.base import Pretransform


def pretransform_hash(pretransform: Pretransform) -> str:
    """16 hex digits of class, geometry, settings and weights, equal for weights in float32 and float16.

    `scale` is not included, because latents are stored without it.
    """
    digest = hashlib.sha256()
    geometry = (pretransform.io_channels, pretransform.encoded_channels, pretransform.downsampling_ratio)
    digest.update(repr((type(pretransform).__name__, geometry)).encode())
    if pretransform.settings:
        digest.update(repr(pretransform.settings).encode())
    for name, value in sorted(pretransform.state_dict().items()):
        if not value.numel():
            continue
        stored = comparable(value)
        digest.update(name.encode())
        digest.update(repr(tuple(stored.shape)).encode())
        digest.update(stored.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
