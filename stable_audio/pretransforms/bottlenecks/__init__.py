"""Bottlenecks, between the encoder and the decoder of an autoencoder."""

from stable_audio.pretransforms.bottlenecks.base import Bottleneck, DiscreteBottleneck
from stable_audio.pretransforms.bottlenecks.continuous import (
    GaussianBottleneck,
    L2NormBottleneck,
    SoftNormBottleneck,
    TanhBottleneck,
    VAEBottleneck,
    WassersteinBottleneck,
)
from stable_audio.pretransforms.bottlenecks.dac_rvq import DACRVQBottleneck, DACRVQVAEBottleneck
from stable_audio.pretransforms.bottlenecks.fsq import DitheredFSQBottleneck, FSQBottleneck
from stable_audio.pretransforms.bottlenecks.rvq import RVQBottleneck, RVQVAEBottleneck

BOTTLENECKS: dict[str, type[Bottleneck]] = {
    "vae": VAEBottleneck,
    "gaussian": GaussianBottleneck,
    "tanh": TanhBottleneck,
    "l2_norm": L2NormBottleneck,
    "wasserstein": WassersteinBottleneck,
    "softnorm": SoftNormBottleneck,
    "rvq": RVQBottleneck,
    "rvq_vae": RVQVAEBottleneck,
    "dac_rvq": DACRVQBottleneck,
    "dac_rvq_vae": DACRVQVAEBottleneck,
    "fsq": FSQBottleneck,
    "dithered_fsq": DitheredFSQBottleneck,
}

__all__ = ["BOTTLENECKS", "Bottleneck", "DiscreteBottleneck"]
