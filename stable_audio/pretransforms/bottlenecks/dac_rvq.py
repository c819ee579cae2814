"""Bottlenecks `dac_rvq` and `dac_rvq_vae`: residual quantisation of Kumar et al. 2023 (improved RVQGAN).

Codes are looked up in a space of few dimensions, by cosine similarity; codebooks are parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.checks import check_counts
from stable_audio.nn.precision import computed_in_float32
from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.bottlenecks.base import DiscreteBottleneck, Info, NoiseSource
from stable_audio.pretransforms.bottlenecks.continuous import append_noise, vae_sample
from stable_audio.pretransforms.conv import WNConv1d


class FactorisedVQ(nn.Module):
    """One codebook between two 1x1 convolutions."""

    def __init__(self, *, input_dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_proj = WNConv1d(input_dim, codebook_dim, 1)
        self.out_proj = WNConv1d(codebook_dim, input_dim, 1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x (b c n) -> quantised (b c n), codes (b n), projected (b d n), two losses (b,) each."""
        projected = self.in_proj(x)
        codes = self.nearest(projected)
        code = self.codebook(codes).mT
        commitment = (projected - code.detach()).square().mean((1, 2))
        codebook = (code - projected.detach()).square().mean((1, 2))
        straight_through = projected + (code - projected).detach()
        return self.out_proj(straight_through), codes, projected, commitment, codebook

    def nearest(self, projected: Tensor) -> Tensor:
        """Index (b n) of the code with the largest cosine similarity, in float32."""
        with torch.autocast(projected.device.type, enabled=False):
            rows = F.normalize(projected.float().mT, dim=-1)
            codes = F.normalize(self.codebook.weight.float(), dim=-1)
            distance = codes.square().sum(1) - 2 * rows @ codes.T
        return distance.argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (b n) -> quantised (b c n)."""
        return self.out_proj(self.codebook(codes).mT)


@dataclass(frozen=True, kw_only=True)
class FactorisedOptions:
    """The codebooks of a residual quantiser with factorised codes.

    Attributes:
        input_dim: latent channels.
        n_codebooks: number of codebooks.
        codebook_size: codes per codebook.
        codebook_dim: number of features in which codes are compared.
        quantizer_dropout: share of a training batch that uses a random number of codebooks.
    """

    input_dim: int = 512
    n_codebooks: int = 9
    codebook_size: int = 1024
    codebook_dim: int | list[int] = 8
    quantizer_dropout: float = 0.0

    @property
    def dims(self) -> list[int]:
        """`codebook_dim` of each codebook."""
        dim = self.codebook_dim
        return [dim] * self.n_codebooks if isinstance(dim, int) else dim


class FactorisedRVQ(nn.Module):
    """Several `FactorisedVQ`, each on the residual of those before."""

    def __init__(self, options: FactorisedOptions) -> None:
        super().__init__()
        check_counts(n_codebooks=options.n_codebooks)
        if len(options.dims) != options.n_codebooks:
            raise ValueError(
                f"codebook_dim has {len(options.dims)} entries, n_codebooks is {options.n_codebooks}"
            )
        self.quantizer_dropout = options.quantizer_dropout
        self.quantizers = nn.ModuleList(
            FactorisedVQ(input_dim=options.input_dim, codebook_size=options.codebook_size, codebook_dim=dim)
            for dim in options.dims
        )

    def forward(self, x: Tensor) -> Info:
        """x (b c n) -> z (b c n), codes (b q n), latents (b q*d n) and two losses, summed over codebooks."""
        counts = self._draw_counts(x)
        residual, z = x, torch.zeros_like(x)
        codes, latents = [], []
        commitment = codebook = x.new_zeros(())
        for k, quantizer in enumerate(self.quantizers):
            quantised, index, projected, commit, book = quantizer(residual)
            in_use = (k < counts).to(x.dtype)
            z = z + quantised * in_use[:, None, None]
            residual = residual - quantised
            commitment, codebook = commitment + (commit * in_use).mean(), codebook + (book * in_use).mean()
            codes.append(index)
            latents.append(projected)
        return {
            "z": z,
            "tokens": torch.stack(codes, 1),
            "latents": torch.cat(latents, 1),
            "vq/commitment_loss": commitment,
            "vq/codebook_loss": codebook,
        }

    def _draw_counts(self, x: Tensor) -> Tensor:
        """Codebooks that each item uses (b,); in training, `quantizer_dropout` of the items use fewer."""
        count, b = len(self.quantizers), x.shape[0]
        counts = torch.full((b,), count, device=x.device)
        if self.training:
            reduced = int(b * self.quantizer_dropout)
            counts[:reduced] = torch.randint(1, count + 1, (reduced,), device=x.device)
        return counts

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (b q n) -> quantised (b c n)."""
        quantizers = cast(Iterable[FactorisedVQ], self.quantizers)
        summands = [q.decode(index) for q, index in zip(quantizers, codes.unbind(1))]
        return torch.stack(summands).sum(0)


class DACRVQBottleneck(DiscreteBottleneck):
    """Residual quantisation with factorised codes.

    Args:
        quantize_on_decode: quantise the latents in `decode`, so that diffusion runs on continuous ones.
        noise_augment_dim: channels of noise appended for the decoder.
        options: the codebooks; its fields are keywords as well.
    """

    loss_weights = {"vq/codebook_loss": 1.0, "vq/commitment_loss": 0.25}  # noqa: RUF012

    @takes_keywords
    def __init__(
        self,
        *,
        quantize_on_decode: bool = False,
        noise_augment_dim: int = 0,
        options: Flat[FactorisedOptions] = FactorisedOptions(),
    ) -> None:
        super().__init__()
        self.quantize_on_decode = quantize_on_decode
        self.decoder_channels_added = noise_augment_dim
        self.num_quantizers, self.codebook_size = options.n_codebooks, options.codebook_size
        self.channels = options.input_dim
        self.quantizer = FactorisedRVQ(options)

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        info: Info = {"pre_quantizer": x}
        if self.quantize_on_decode:
            return x, info
        info.update(self.quantizer(x))
        for name in ("vq/commitment_loss", "vq/codebook_loss"):
            info[name] = info[name] / self.num_quantizers
        return info["z"], info

    @computed_in_float32
    def decode(self, latents: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        if self.quantize_on_decode:
            latents = self.quantizer(latents)["z"]
        return append_noise(latents, self.decoder_channels_added, noise, training=self.training)

    @computed_in_float32
    def tokens(self, latents: Tensor) -> Tensor:
        """Tokens (b q n) of unquantised latents (b c n)."""
        return self.quantizer(latents)["tokens"]

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return self.quantizer.decode(tokens)


class DACRVQVAEBottleneck(DACRVQBottleneck):
    """A VAE sample, then residual quantisation with factorised codes; see `dac_rvq`."""

    input_multiple = 2
    loss_weights = {"kl": 1e-6, "vq/codebook_loss": 1.0, "vq/commitment_loss": 0.25}  # noqa: RUF012

    @takes_keywords
    def __init__(
        self,
        *,
        quantize_on_decode: bool = False,
        options: Flat[FactorisedOptions] = FactorisedOptions(),
    ) -> None:
        super().__init__(quantize_on_decode=quantize_on_decode, options=options)

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        sampled, kl = vae_sample(x, noise)
        latents, info = super().encode(sampled)
        return latents, {"kl": kl, **info}
