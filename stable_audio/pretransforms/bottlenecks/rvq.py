"""Bottlenecks `rvq` and `rvq_vae`: residual quantisation with codebooks that follow moving averages."""

from __future__ import annotations

from torch import Tensor

from stable_audio.nn.precision import computed_in_float32
from stable_audio.pretransforms.bottlenecks.base import DiscreteBottleneck, Info, NoiseSource
from stable_audio.pretransforms.bottlenecks.codebook import ResidualVQ
from stable_audio.pretransforms.bottlenecks.continuous import vae_sample


class RVQBottleneck(DiscreteBottleneck):
    """Residual vector quantisation.

    Args:
        dim: latent channels.
        codebook_size: codes per codebook.
        num_quantizers: number of codebooks.
        codebook_dim: number of features in which codes are compared; None = dim.
        decay: decay of the moving averages.
        kmeans_init: start the codes from k-means of the first batch.
        kmeans_iters: iterations of that k-means.
        threshold_ema_dead_code: codes used less than this often per batch are replaced (0 = never).
        commitment_weight: weight of the commitment term inside `quantizer_loss`.
        quantize_dropout: train with a random number of codebooks, more than
            `quantize_dropout_cutoff_index` and a multiple of `quantize_dropout_multiple_of`.
    """

    loss_weights = {"quantizer_loss": 1.0}  # noqa: RUF012

    def __init__(
        self,
        *,
        dim: int = 128,
        codebook_size: int = 1024,
        num_quantizers: int = 8,
        codebook_dim: int | None = None,
        decay: float = 0.99,
        kmeans_init: bool = True,
        kmeans_iters: int = 50,
        threshold_ema_dead_code: float = 2,
        commitment_weight: float = 1.0,
        quantize_dropout: bool = False,
        quantize_dropout_cutoff_index: int = 0,
        quantize_dropout_multiple_of: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= quantize_dropout_cutoff_index < num_quantizers:
            raise ValueError(
                f"quantize_dropout_cutoff_index must be below num_quantizers={num_quantizers}, "
                f"found {quantize_dropout_cutoff_index}"
            )
        self.num_quantizers, self.codebook_size, self.channels = num_quantizers, codebook_size, dim
        self.quantizer = ResidualVQ(
            dim=dim,
            codebook_size=codebook_size,
            num_quantizers=num_quantizers,
            codebook_dim=codebook_dim,
            decay=decay,
            kmeans_init=kmeans_init,
            kmeans_iters=kmeans_iters,
            threshold_ema_dead_code=threshold_ema_dead_code,
            commitment_weight=commitment_weight,
            quantize_dropout=quantize_dropout,
            quantize_dropout_cutoff_index=quantize_dropout_cutoff_index,
            quantize_dropout_multiple_of=quantize_dropout_multiple_of,
        )

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        latents, tokens, loss = self.quantizer(x)
        return latents, {"tokens": tokens, "quantizer_loss": loss}

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return self.quantizer.decode(tokens)


class RVQVAEBottleneck(RVQBottleneck):
    """A VAE sample, then residual quantisation; same options as `rvq`."""

    input_multiple = 2
    loss_weights = {"kl": 1e-6, "quantizer_loss": 1.0}  # noqa: RUF012

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        sampled, kl = vae_sample(x, noise)
        latents, info = super().encode(sampled)
        return latents, {"kl": kl, **info}
