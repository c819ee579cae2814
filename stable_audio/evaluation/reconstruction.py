"""Measure how well a pretransform reconstructs audio."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.io import save_audio
from stable_audio.characters import readable_json
from stable_audio.data.base import ItemKey, Rejected
from stable_audio.data.parts import DatasetParts, FileParts
from stable_audio.inference.codec.decode import decode_unscaled, sound_names
from stable_audio.inference.codec.latents import unscaled_latents
from stable_audio.pretransforms.base import Pretransform
from stable_audio.pretransforms.chunking import CHUNK_ABOVE
from stable_audio.pretransforms.losses import MultiResolutionMelLoss

FIGURES = ("si_sdr", "stft_distance", "mel_distance")
"""What is measured of every part."""

RESOLUTIONS = (2048, 1024, 512, 256, 128)
"""FFT sizes of the STFT distance; the hop is a quarter."""

MEL_WINDOWS = {32: 5, 64: 10, 128: 20, 256: 40, 512: 80, 1024: 160, 2048: 320}
"""Window -> bands of the mel distance; the hop is a quarter (Kumar et al. 2023)."""

_FLOOR = 1e-5


def si_sdr(estimate: Tensor, reference: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB over all channels (Le Roux et al. 2019, eq. 3).

    estimate, reference (c n). inf for equal signals, -inf for silence or nothing in common.
    """
    x, s = estimate.double().flatten(), reference.double().flatten()
    power = s.square().sum()
    if power == 0:
        return -math.inf
    target = (x @ s) / power * s
    distortion = float((x - target).square().sum())
    signal = float(target.square().sum())
    if signal == 0:
        return -math.inf
    return math.inf if distortion == 0 else 10 * math.log10(signal / distortion)


def stft_distance(estimate: Tensor, reference: Tensor, resolutions: Sequence[int] = RESOLUTIONS) -> float:
    """Mean over resolutions of spectral convergence plus mean |difference of log magnitudes|.

    Yamamoto et al. 2020, eqs. 4-6; natural logarithm, magnitudes floored at 1e-5. 0 for equal signals.
    """
    total = 0.0
    for size in resolutions:
        a, b = _magnitudes(estimate, size), _magnitudes(reference, size)
        norm = float(b.norm())
        convergence = float((a - b).norm()) / norm if norm > 0 else float((a - b).norm())
        total += convergence + float((a.clamp(min=_FLOOR).log() - b.clamp(min=_FLOOR).log()).abs().mean())
    return total / len(resolutions)


def mel_distance(estimate: Tensor, reference: Tensor, sample_rate: int) -> float:
    """Mean over resolutions of the mean |difference of log10 mel magnitudes|; 0 for equal signals.

    estimate, reference (c n). Windows more than twice as long as the clip are skipped.
    """
    windows = {w: m for w, m in MEL_WINDOWS.items() if w // 2 < reference.shape[-1]}
    if not windows:
        return math.nan
    loss = MultiResolutionMelLoss(
        sample_rate=sample_rate, window_lengths=list(windows), n_mels=list(windows.values())
    )
    return float(loss(estimate[None].float(), reference[None].float())) / len(windows)


def _magnitudes(audio: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size)
    return torch.stft(
        audio.float(), size, size // 4, window=window, pad_mode="constant", return_complex=True
    ).abs()


def reconstruct(
    pretransform: Pretransform,
    source: FileParts | DatasetParts,
    *,
    sample_rate: int,
    chunk_above: int | None = CHUNK_ABOVE,
    sampled: bool = False,
    quantizers: int | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Encode and decode every part; yields its name and scores, or its name and the reason for rejecting it.

    Args:
        sampled: sample the latents of a variational autoencoder instead of using their mean.
        quantizers: decode only this many of the first tokens of every frame, for a lower bitrate.
        out: folder in which to write the reconstructions as well.
    """
    for problem in source.problems:
        yield {"part": problem.path, "rejected": problem.reason}
    names = sound_names([part.name for part in source.parts])
    for index, part in enumerate(source.parts):
        clip = source[ItemKey(index, 0)]
        if isinstance(clip, Rejected):
            yield {"part": part.name, "rejected": clip.reason}
            continue
        audio, metadata = clip
        if quantizers is None:
            reconstruction = _round_trip(pretransform, audio, index, chunk_above, sampled)
        else:
            reconstruction = _from_tokens(pretransform, audio, quantizers, chunk_above)
        real = metadata["real"]
        audio, reconstruction = audio[:, :real], reconstruction[:, :real]
        if out is not None:
            save_audio(Path(out) / f"{names[index]}.wav", reconstruction, sample_rate)
        yield {
            "part": part.name,
            "seconds": real / sample_rate,
            "si_sdr": si_sdr(reconstruction, audio),
            "stft_distance": stft_distance(reconstruction, audio),
            "mel_distance": mel_distance(reconstruction, audio, sample_rate),
        }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of the rows of `reconstruct`, and the mean of each figure where it is finite."""
    measured = [row for row in rows if "rejected" not in row]
    means: dict[str, Any] = {}
    for name in FIGURES:
        finite = [row[name] for row in measured if math.isfinite(row[name])]
        means[name] = statistics.fmean(finite) if finite else None
    return {"measured": len(measured), "rejected": len(rows) - len(measured), **means}


def write_report(folder: str | os.PathLike[str], report: dict[str, Any]) -> None:
    """Write figures.json into `folder`."""
    with atomic_write(Path(folder) / "figures.json") as temporary:
        temporary.write_text(as_json(report), encoding="utf-8")


def as_json(report: dict[str, Any]) -> str:
    """A report with `items`. JSON has no infinity: a perfect copy, or nothing in common, becomes null."""
    items = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in report["items"]
    ]
    return readable_json({**report, "items": items}, indent=2)


@torch.inference_mode()
def _round_trip(
    pretransform: Pretransform, audio: Tensor, seed: int, chunk_above: int | None, sampled: bool
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    latents = unscaled_latents(
        pretransform,
        audio[None].to(pretransform.device),
        noise=noise if sampled else torch.zeros_like,
        chunk_above=chunk_above,
    )
    return decode_unscaled(pretransform, latents, chunk_above=chunk_above)[0].float().cpu()


@torch.inference_mode()
def _from_tokens(pretransform: Any, audio: Tensor, quantizers: int, chunk_above: int | None) -> Tensor:
    """Decode the first `quantizers` tokens of every frame.

    Raises:
        ValueError: the autoencoder has no tokens, or fewer.
    """
    if not pretransform.is_discrete:
        raise ValueError(f"--quantizers {quantizers}: the latents of this autoencoder are not quantised")
    frames = audio.shape[-1] // pretransform.downsampling_ratio
    chunked = chunk_above is not None and frames > chunk_above
    tokens = pretransform.tokenize(audio[None].to(pretransform.device), chunked=chunked)
    if not 1 <= quantizers <= tokens.shape[1]:
        raise ValueError(f"--quantizers {quantizers}: a frame has {tokens.shape[1]} tokens")
    return pretransform.decode_tokens(tokens[:, :quantizers], chunked=chunked)[0].cpu()
