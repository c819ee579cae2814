"""Modified discrete cosine transform with amplitude compression: real, critically sampled, invertible.

Each block of `bands` samples becomes `bands` coefficients (Princen, Johnson & Bradley 1987), computed as a
fold across the block borders followed by a DCT-IV. The two ends of the clip are not folded, so n samples
give exactly n values. Compression by a power below one gives weak partials more weight in a loss;
decoding shrinks small errors, so silence stays silent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.pretransforms.base import Pretransform


class MDCTPretransform(Pretransform):
    """(b c n) -> (b (c bands) n/bands). A length that is no multiple of `bands` is zero-padded at the end.

    Args:
        channels: audio channels.
        bands: coefficients per block, even; also the samples per latent frame.
        power: latents are sign(x) |x|^power / scale of the coefficients x; 1 is the plain, orthonormal MDCT.
        scale: divisor that brings the latents near unit variance.
    """

    matrix: Tensor
    window: Tensor

    def __init__(
        self,
        *,
        channels: int = 1,
        bands: int = 64,
        power: float = 1.0,
        scale: float = 1.0,
        enable_grad: bool = False,
    ) -> None:
        super().__init__(enable_grad=enable_grad)
        if channels < 1 or bands < 2 or bands % 2:
            raise ValueError(
                f"mdct needs positive channels and an even number of bands, found {channels}, {bands}"
            )
        if not 0 < power <= 1 or scale <= 0:
            raise ValueError(f"mdct needs 0 < power <= 1 and scale > 0, found {power}, {scale}")
        self.io_channels = channels
        self.encoded_channels = channels * bands
        self.downsampling_ratio = bands
        self.bands, self.power, self.scale = bands, power, scale
        self.settings = (float(power),)
        index = torch.arange(bands, dtype=torch.float64) + 0.5
        matrix = math.sqrt(2 / bands) * torch.cos(math.pi / bands * index[:, None] * index)
        # Rising half of the sine window, from the border between two blocks to the end of the overlap.
        angle = math.pi / 4 + math.pi / 2 * (torch.arange(bands // 2, dtype=torch.float64) + 0.5) / bands
        self.register_buffer("matrix", matrix.float(), persistent=False)
        self.register_buffer("window", torch.stack([angle.sin(), angle.cos()]).float(), persistent=False)
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        padding = -audio.shape[-1] % self.bands
        blocks = F.pad(audio, (0, padding)).unflatten(-1, (-1, self.bands))
        coefficients = self._fold(blocks, 1.0) @ self.matrix.to(audio.dtype)
        compressed = coefficients.sign() * coefficients.abs() ** self.power / self.scale
        return compressed.transpose(2, 3).flatten(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        compressed = latents.unflatten(1, (self.io_channels, self.bands)).transpose(2, 3) * self.scale
        coefficients = compressed.sign() * compressed.abs() ** (1 / self.power)
        return self._fold(coefficients @ self.matrix.to(latents.dtype), -1.0).flatten(2)

    def _fold(self, blocks: Tensor, direction: float) -> Tensor:
        """Rotate each pair of samples that mirror one another at a block border; -1 inverts +1."""
        half = self.bands // 2
        near, far = self.window.to(blocks.dtype)
        tail, head = blocks[..., :-1, half:].flip(-1), blocks[..., 1:, :half]
        folded_head = near * head + direction * far * tail
        folded_tail = (near * tail - direction * far * head).flip(-1)
        heads = torch.cat([blocks[..., :1, :half], folded_head], dim=-2)
        tails = torch.cat([folded_tail, blocks[..., -1:, half:]], dim=-2)
        return torch.cat([heads, tails], dim=-1)
