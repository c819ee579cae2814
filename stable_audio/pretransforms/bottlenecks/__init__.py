"""Bottlenecks: what stands between the encoder and the decoder of an autoencoder."""

from stable_audio.pretransforms.bottlenecks.base import Bottleneck, DiscreteBottleneck
from stable_audio.pretransforms.bottlenecks.continuous import (
    L2NormBottleneck,
    SoftNormBottleneck,
    TanhBottleneck,
    VAEBottleneck,
    WassersteinBottleneck,
)

BOTTLENECKS: dict[str, type[Bottleneck]] = {
    "vae": VAEBottleneck,
    "tanh": TanhBottleneck,
    "l2_norm": L2NormBottleneck,
    "wasserstein": WassersteinBottleneck,
    "softnorm": SoftNormBottleneck,
}

__all__ = ["BOTTLENECKS", "Bottleneck", "DiscreteBottleneck"]
