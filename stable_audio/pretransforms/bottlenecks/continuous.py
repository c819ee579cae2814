"""Bottlenecks whose latents are real numbers: vae, tanh, l2_norm, wasserstein, softnorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.precision import computed_in_float32
from stable_audio.pretransforms.bottlenecks.base import (
    Bottleneck,
    Info,
    NoiseSource,
    draw,
    draw_for_decoder,
    std_over_processes,
)


def vae_sample(x: Tensor, noise: NoiseSource | None, *, sample: bool = True) -> tuple[Tensor, Tensor]:
    """Mean and scale stacked on channels (b 2c n) -> latents (b c n) and the KL term.

    std = softplus(scale) + 1e-4; KL = (mean^2 + var - log var - 1) summed over channels, averaged over
    batch and time (twice the divergence from N(0, 1); loss weights are tuned to this).
    """
    mean, scale = x.chunk(2, dim=1)
    std = F.softplus(scale) + 1e-4
    var = std * std
    kl = (mean * mean + var - var.log() - 1).sum(1).mean()
    return (mean + std * draw(noise, mean) if sample else mean), kl


class VAEBottleneck(Bottleneck):
    """Kingma and Welling 2013. `sample` False returns the mean in eval mode; training always samples."""

    input_multiple = 2
    loss_weights = {"kl": 1e-6}  # noqa: RUF012

    def __init__(self, *, sample: bool = True) -> None:
        super().__init__()
        self.sample = sample

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        latents, kl = vae_sample(x, noise, sample=self.sample or self.training)
        return latents, {"kl": kl}


class GaussianBottleneck(Bottleneck):
    """Mean and log-variance (b 2c ...), the latter clamped to [-30, 20], as in Stable Diffusion.

    KL = (mean^2 + var - log var - 1) / 2 summed over all but the batch. `sample` False returns the mean
    in eval mode; training always samples.
    """

    input_multiple = 2
    loss_weights = {"kl": 1e-6}  # noqa: RUF012

    def __init__(self, *, sample: bool = True) -> None:
        super().__init__()
        self.sample = sample

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        mean, logvar = x.chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        kl = 0.5 * (mean.square() + logvar.exp() - logvar - 1).flatten(1).sum(1).mean()
        if not (self.sample or self.training):
            return mean, {"kl": kl}
        return mean + (0.5 * logvar).exp() * draw(noise, mean), {"kl": kl}


class TanhBottleneck(Bottleneck):
    """latents = scale * tanh(x / scale), bounded to (-scale, scale)."""

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale of the tanh bottleneck must be positive, found {scale}")
        self.scale = scale
        self.settings = (float(scale),)

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        return torch.tanh(x / self.scale) * self.scale, {}


class L2NormBottleneck(Bottleneck):
    """Each latent frame is scaled to unit length, in encode and again in decode."""

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        return F.normalize(x, dim=1), {}

    @computed_in_float32
    def decode(self, latents: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        return F.normalize(latents, dim=1)


def gaussian_kernel_mean(a: Tensor, b: Tensor) -> Tensor:
    """Mean of exp(-||a_i - b_j||^2 / d^2) over all pairs of rows; a (m d), b (k d)."""
    dim = a.shape[1]
    distance = (a[:, None] - b[None]).square().mean(2) / dim
    return torch.exp(-distance).mean()


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Maximum mean discrepancy of two sets of rows with a Gaussian kernel (Tolstikhin et al. 2018)."""
    return gaussian_kernel_mean(a, a) + gaussian_kernel_mean(b, b) - 2 * gaussian_kernel_mean(a, b)


def append_noise(latents: Tensor, channels: int, noise: NoiseSource | None, *, training: bool) -> Tensor:
    """Concatenate `channels` channels of noise."""
    if channels == 0:
        return latents
    like = latents.new_empty(latents.shape[0], channels, latents.shape[2])
    return torch.cat([latents, draw_for_decoder(noise, like, training=training)], dim=1)


class WassersteinBottleneck(Bottleneck):
    """Latents are drawn towards N(0, 1) by a loss, the maximum mean discrepancy, in training only.

    Args:
        noise_augment_dim: channels of noise appended for the decoder.
        bypass_mmd: do not compute the discrepancy.
        use_tanh: bound the latents to (-tanh_scale, tanh_scale).
        tanh_scale: bound of the latents with `use_tanh`.
    """

    loss_weights = {"mmd": 100.0}  # noqa: RUF012

    def __init__(
        self,
        *,
        noise_augment_dim: int = 0,
        bypass_mmd: bool = False,
        use_tanh: bool = False,
        tanh_scale: float = 5.0,
    ) -> None:
        super().__init__()
        self.decoder_channels_added = noise_augment_dim
        self.bypass_mmd, self.use_tanh, self.tanh_scale = bypass_mmd, use_tanh, tanh_scale
        self.settings = (float(tanh_scale),) if use_tanh else ()

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        info: Info = {}
        if self.training and not self.bypass_mmd:
            rows = x.transpose(1, 2).reshape(-1, x.shape[1])
            info["mmd"] = mmd(rows, draw(noise, rows))
        if self.use_tanh:
            x = torch.tanh(x / self.tanh_scale) * self.tanh_scale
        return x, info

    @computed_in_float32
    def decode(self, latents: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        return append_noise(latents, self.decoder_channels_added, noise, training=self.training)


def moment_loss(x: Tensor, dim: int) -> Tensor:
    """(mean^2 + var - log var - 1) of `x` along `dim`, variance floored at 1e-4, averaged over the rest."""
    mean, var = x.mean(dim), x.var(dim, unbiased=False).clamp(min=1e-4)
    return (mean.square() + var - var.log() - 1).mean()


class SoftNormBottleneck(Bottleneck):
    """A learned scale and offset per channel, held near zero mean and unit variance by a soft loss.

    Args:
        dim: latent channels.
        noise_augment_dim: channels of scaled noise appended for the decoder.
        noise_regularize: add noise to the decoder's input: 5e-2 of the std in training, 1e-3 otherwise.
        auto_scale: divide by a running std of the latents, of all processes that train together.
        freeze: do not train scale and offset, and do not update the running std.
    """

    loss_weights = {"softnorm": 1.0}  # noqa: RUF012
    running_std: nn.Parameter | None

    def __init__(
        self,
        *,
        dim: int = 32,
        noise_augment_dim: int = 0,
        noise_regularize: bool = False,
        auto_scale: bool = False,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.decoder_channels_added = dim, noise_augment_dim
        self.noise_regularize, self.freeze = noise_regularize, freeze
        self.scaling_factor = nn.Parameter(torch.ones(1, dim, 1), requires_grad=not freeze)
        self.bias = nn.Parameter(torch.zeros(1, dim, 1), requires_grad=not freeze)
        # Published files have it even without any channel of noise.
        self.noise_scaling_factor = nn.Parameter(
            torch.ones(1, noise_augment_dim, 1), requires_grad=not freeze and noise_augment_dim > 0
        )
        self.running_std = nn.Parameter(torch.ones(1), requires_grad=False) if auto_scale else None

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        x = x * self.scaling_factor + self.bias
        if self.running_std is not None:
            if self.training and not self.freeze:
                with torch.no_grad():
                    # Of all processes, whose weights would differ otherwise.
                    std = std_over_processes(x).clamp(min=1e-4)
                    self.running_std.lerp_(std.to(self.running_std), 1e-3)
            x = x / self.running_std
        if not self.training:
            return x, {}
        return x, {"softnorm": moment_loss(x, 2) + 0.4 * moment_loss(x, 1)}

    @computed_in_float32
    def decode(self, latents: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        if self.running_std is not None:
            latents = latents * self.running_std
        if self.noise_regularize:
            level = 5e-2 if self.training else 1e-3
            drawn = draw_for_decoder(noise, latents, training=self.training)
            latents = latents + level * latents.std() * drawn
        if self.decoder_channels_added:
            b, _, n = latents.shape
            like = latents.new_empty(b, self.decoder_channels_added, n)
            extra = draw_for_decoder(noise, like, training=self.training)
            latents = torch.cat([latents, extra * self.noise_scaling_factor], dim=1)
        return latents
