"""Bottlenecks `rvq` and `rvq_vae`: residual quantisation with codebooks that follow moving averages."""

from __future__ import annotations

from torch import Tensor

from stable_audio.nn.precision import computed_in_float32
from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.bottlenecks.base import DiscreteBottleneck, Info, NoiseSource
from stable_audio.pretransforms.bottlenecks.codebook import CodebookOptions, ResidualVQ
from stable_audio.pretransforms.bottlenecks.continuous import vae_sample


class RVQBottleneck(DiscreteBottleneck):
    """Residual vector quantisation.

    Args:
        dim: latent channels.
        codebook_size: codes per codebook.
        num_quantizers: number of codebooks.
        options: how the codebooks learn; its fields are keywords as well.
    """

    loss_weights = {"quantizer_loss": 1.0}  # noqa: RUF012

    @takes_keywords
    def __init__(
        self,
        *,
        dim: int = 128,
        codebook_size: int = 1024,
        num_quantizers: int = 8,
        options: Flat[CodebookOptions] = CodebookOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        cutoff = options.quantize_dropout_cutoff_index
        if not 0 <= cutoff < num_quantizers:
            raise ValueError(
                f"quantize_dropout_cutoff_index must be below num_quantizers={num_quantizers}, found {cutoff}"
            )
        self.num_quantizers, self.codebook_size, self.channels = num_quantizers, codebook_size, dim
        self.quantizer = ResidualVQ(
            dim=dim, codebook_size=codebook_size, num_quantizers=num_quantizers, options=options
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
