"""A codebook learned by moving averages, and residual quantisation with several of them.

Van den Oord et al. 2017 (appendix A.1: EMA updates), Zeghidour et al. 2021 (SoundStream: residual
quantisation, k-means start, replacement of dead codes). State keys `layers.<k>._codebook.*`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.bottlenecks.base import is_distributed


def nearest(rows: Tensor, codes: Tensor) -> Tensor:
    """Index (m,) of the code (k d) nearest to each row (m d), in float32, because rows may lie far from 0."""
    with torch.autocast(rows.device.type, enabled=False):
        rows, codes = rows.float(), codes.float()
        distance = codes.square().sum(1) - 2 * rows @ codes.T
    return distance.argmin(1)


def kmeans(rows: Tensor, size: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from random rows -> (means (size d), counts (size,)); empty clusters stay."""
    means = rows[_pick(rows, size)]
    counts = torch.zeros(size, device=rows.device)
    for _ in range(iterations):
        index = nearest(rows, means)
        counts = torch.bincount(index, minlength=size).to(rows.dtype)
        sums = torch.zeros_like(means).index_add_(0, index, rows)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
    return means, counts


def _pick(rows: Tensor, count: int) -> Tensor:
    """Indices of `count` random rows, all different if there are enough."""
    if rows.shape[0] >= count:
        return torch.randperm(rows.shape[0], device=rows.device)[:count]
    return torch.randint(rows.shape[0], (count,), device=rows.device)


class EMACodebook(nn.Module):
    """Codes (1 k d) that follow a moving average of the rows assigned to them; buffers, not parameters."""

    initted: Tensor
    cluster_size: Tensor
    embed_avg: Tensor
    embed: Tensor

    def __init__(
        self,
        *,
        dim: int,
        size: int,
        decay: float,
        kmeans_init: bool,
        kmeans_iters: int,
        threshold_ema_dead_code: float,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        codes = torch.zeros(1, size, dim) if kmeans_init else torch.empty(1, size, dim).uniform_(-1, 1) / size
        self.decay, self.eps, self.kmeans_iters = decay, eps, kmeans_iters
        self.dead_below = threshold_ema_dead_code
        self.register_buffer("initted", torch.tensor([float(not kmeans_init)]))
        self.register_buffer("cluster_size", torch.zeros(1, size))
        self.register_buffer("embed_avg", codes.clone())
        self.register_buffer("embed", codes)

    @torch.no_grad()
    def start(self, rows: Tensor) -> None:
        """Initialise the codes by k-means of `rows` (m d), once; all ranks use those of the first."""
        if bool(self.initted):
            return
        means, counts = kmeans(rows, self.embed.shape[1], self.kmeans_iters)
        if is_distributed():
            dist.broadcast(means, 0)
            dist.broadcast(counts, 0)
        self.embed.copy_(means[None])
        self.embed_avg.copy_(means[None] * counts[None, :, None])
        self.cluster_size.copy_(counts[None])
        self.initted.fill_(1)

    def lookup(self, index: Tensor) -> Tensor:
        """Codes of the indices (...,) -> (..., d)."""
        return F.embedding(index, self.embed[0])

    def assign(self, rows: Tensor) -> Tensor:
        """Index (m,) of the code of each row (m d)."""
        return nearest(rows, self.embed[0])

    @torch.no_grad()
    def update(self, rows: Tensor, index: Tensor) -> None:
        """Move the codes towards the rows (m d) assigned to them, then replace dead codes."""
        size = self.embed.shape[1]
        counts = torch.bincount(index, minlength=size).to(rows.dtype)
        sums = torch.zeros_like(self.embed[0]).index_add_(0, index, rows)
        if is_distributed():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.cluster_size.lerp_(counts[None], 1 - self.decay)
        self.embed_avg.lerp_(sums[None], 1 - self.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.eps) / (total + size * self.eps) * total
        self.embed.copy_(self.embed_avg / smoothed[..., None])
        self._replace_dead(rows)

    def _replace_dead(self, rows: Tensor) -> None:
        dead = self.cluster_size[0] < self.dead_below
        if not self.dead_below or not bool(dead.any()):
            return
        fresh = rows[_pick(rows, dead.shape[0])]
        if is_distributed():
            dist.broadcast(fresh, 0)
        self.embed[0, dead] = fresh[dead]
        self.cluster_size[0, dead] = self.dead_below
        self.embed_avg[0, dead] = fresh[dead] * self.dead_below


class _Layer(nn.Module):
    """Holds the codebook under the key that checkpoints use."""

    def __init__(self, codebook: EMACodebook) -> None:
        super().__init__()
        self._codebook = codebook


@dataclass(frozen=True, kw_only=True)
class CodebookOptions:
    """How codebooks learn, and how many of them a training step uses.

    Attributes:
        codebook_dim: number of features in which codes are compared; None = dim.
        decay: decay of the moving averages.
        kmeans_init: start the codes from k-means of the first batch.
        kmeans_iters: iterations of that k-means.
        threshold_ema_dead_code: codes used less than this often per batch are replaced (0 = never).
        commitment_weight: weight of the commitment term inside `quantizer_loss`.
        quantize_dropout: train with a random number of codebooks, more than
            `quantize_dropout_cutoff_index` and a multiple of `quantize_dropout_multiple_of`.
    """

    codebook_dim: int | None = None
    decay: float = 0.99
    kmeans_init: bool = True
    kmeans_iters: int = 50
    threshold_ema_dead_code: float = 2
    commitment_weight: float = 1.0
    quantize_dropout: bool = False
    quantize_dropout_cutoff_index: int = 0
    quantize_dropout_multiple_of: int = 1


class ResidualVQ(nn.Module):
    """Each codebook quantises the residual of the ones before it.

    Args:
        dim: channels of what is quantised.
        codebook_size: codes per codebook.
        num_quantizers: number of codebooks.
        options: how the codebooks learn; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int,
        num_quantizers: int,
        options: Flat[CodebookOptions] = CodebookOptions(),
    ) -> None:
        super().__init__()
        width = dim if options.codebook_dim is None else options.codebook_dim
        self.project_in = nn.Linear(dim, width) if width != dim else nn.Identity()
        self.project_out = nn.Linear(width, dim) if width != dim else nn.Identity()
        self.commitment_weight = options.commitment_weight
        draws = (options.quantize_dropout_cutoff_index, options.quantize_dropout_multiple_of)
        self.dropout = draws if options.quantize_dropout else None
        self.layers = nn.ModuleList(
            _Layer(
                EMACodebook(
                    dim=width,
                    size=codebook_size,
                    decay=options.decay,
                    kmeans_init=options.kmeans_init,
                    kmeans_iters=options.kmeans_iters,
                    threshold_ema_dead_code=options.threshold_ema_dead_code,
                )
            )
            for _ in range(num_quantizers)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (b c n) -> (quantised (b c n), tokens (b q n), loss).

        The loss is the commitment to the codes, averaged over the codebooks; 0 in eval mode. Gradients
        pass the quantisation unchanged (straight-through). Codebooks disabled by quantiser dropout
        have the token -1 and no update.
        """
        z = self.project_in(x.mT)
        active = self._draw_active()
        residual, total = z, torch.zeros_like(z)
        tokens, losses = [], []
        for k, layer in enumerate(self.layers):
            if k >= active:
                tokens.append(torch.full(z.shape[:2], -1, device=z.device))
                losses.append(z.new_zeros(()))
                continue
            code, index, loss = self._step(layer._codebook, residual)  # type: ignore[arg-type]
            residual, total = residual - code, total + code
            tokens.append(index)
            losses.append(loss)
        quantised = z + (total - z).detach() if self.training else total
        loss = torch.stack(losses).mean()
        return self.project_out(quantised).mT, torch.stack(tokens, 1), loss

    def _step(self, codebook: EMACodebook, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = residual.detach().flatten(0, 1).float()
        if self.training:
            codebook.start(rows)
        index = codebook.assign(rows)
        code = codebook.lookup(index).view_as(residual).to(residual.dtype)
        loss = residual.new_zeros(())
        if self.training:
            loss = self.commitment_weight * F.mse_loss(residual, code)
            codebook.update(rows, index)
        return code, index.view(residual.shape[:2]), loss

    def _draw_active(self) -> int:
        count = len(self.layers)
        if not self.training or self.dropout is None:
            return count
        cutoff, multiple = self.dropout
        drawn = torch.randint(cutoff, count, ())
        if is_distributed():  # the codebooks of all processes are updated together
            drawn = drawn.to(cast(_Layer, self.layers[0])._codebook.embed.device)
            dist.broadcast(drawn, 0)
        last = int(drawn)
        return min(count, -(-(last + 1) // multiple) * multiple)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (b q n) -> latents (b c n); -1 and missing quantisers add nothing."""
        total: Tensor | None = None
        for layer, index in zip(self.layers, tokens.unbind(1)):
            code = cast(_Layer, layer)._codebook.lookup(index.clamp(min=0)) * (index >= 0)[..., None]
            total = code if total is None else total + code
        if total is None:
            raise ValueError(f"tokens (b q n) need at least one quantiser, found shape {tuple(tokens.shape)}")
        return self.project_out(total).mT
