"""The phase of a magnitude spectrogram, integrated from the slopes of the log magnitudes.

Under a Gaussian window, the phase's derivatives along time and frequency are those of the log magnitude along
frequency and time, up to a factor; other windows are close to a Gaussian (Prusa, Balazs and Sondergaard 2017,
"A noniterative method for reconstruction of phase from STFT magnitude"). They are summed from the loudest bin
outwards, always through the loudest neighbour: no quiet bin, whose slope is unreliable, is on the path to a
loud one. A spanning tree replaces the paper's heap, for speed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HANN_SPREAD = 0.25645
"""Time-frequency ratio of the Gaussian nearest to a Hann window of one sample (Prusa 2017)."""

RANGE = 1e-6
"""Lower limit of magnitudes relative to the loudest one (-120 dB), so that logarithms are finite."""

TIE = 1e-6
"""Weight of an edge's louder bin, so small that it only decides between edges with equal quieter bins."""

Array = NDArray[np.float64]


def integrated_phases(magnitude: Tensor, *, n_fft: int, hop: int) -> Tensor:
    """Magnitudes (... bins frames) under a Hann window -> phases of the same shape, in radians.

    Args:
        magnitude: magnitudes of frames `hop` samples apart; at least four must overlap for a good phase.
        n_fft: samples of the window and of the transform.
        hop: samples per frame.
    """
    if magnitude.untyped_storage().device.type == "meta":  # shapes alone, of which memory is planned
        return torch.empty_like(magnitude)
    items = magnitude.detach().double().cpu().view(-1, *magnitude.shape[-2:]).numpy()
    phases = np.stack([_integrate(item, n_fft=n_fft, hop=hop) for item in items])
    return torch.from_numpy(phases).view(magnitude.shape).to(magnitude)


def _integrate(magnitude: Array, *, n_fft: int, hop: int) -> Array:
    """Like `integrated_phases`, for one item (bins, frames)."""
    loudest = magnitude.max()
    if loudest <= 0:
        return np.zeros_like(magnitude)
    logs = np.log(np.maximum(magnitude, RANGE * loudest))
    spread = HANN_SPREAD * n_fft**2
    bins = np.arange(len(magnitude))[:, None]
    # Phases at the centre of the window: from one frame to the next, and from one bin to the next.
    per_frame = 2 * np.pi * hop * bins / n_fft + hop * n_fft / spread * _slope(logs)
    per_bin = -spread / (hop * n_fft) * _slope(logs.T).T
    steps = np.concatenate(
        [
            ((per_frame[:, 1:] + per_frame[:, :-1]) / 2).ravel(),
            ((per_bin[1:] + per_bin[:-1]) / 2).ravel(),
        ]
    )
    return _sums_along_tree(logs, steps).reshape(magnitude.shape) - math.pi * bins


def _slope(rows: Array) -> Array:
    """Central difference along the first axis, zero at both ends."""
    out = np.zeros_like(rows)
    out[1:-1] = (rows[2:] - rows[:-2]) / 2
    return out


def _sums_along_tree(logs: Array, steps: Array) -> Array:
    """Sums of `steps` along the path from the loudest bin to every bin, flat.

    The path is that in the spanning tree of the grid whose quietest bins are as loud as possible, which is
    the order of the paper's heap.

    Args:
        logs: log magnitudes (bins, frames).
        steps: phase differences of neighbours: along the frames for all pairs, then along the bins.
    """
    # Imported here: it takes a sixth of the start of a command, and few models need it.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    nodes = np.arange(logs.size).reshape(logs.shape)
    first = np.concatenate([nodes[:, :-1].ravel(), nodes[:-1].ravel()])
    second = np.concatenate([nodes[:, 1:].ravel(), nodes[1:].ravel()])
    flat = logs.ravel()
    # Of edges with the same quieter bin, prefer that to the loudest neighbour. Lengths are positive, since a
    # sparse graph has no edge of length zero.
    level_first, level_second = flat[first], flat[second]
    lengths = (
        1
        + flat.max()
        - np.minimum(level_first, level_second)
        - TIE * (np.maximum(level_first, level_second) - flat.max())
    )
    graph = csr_array((lengths, (first, second)), shape=(logs.size, logs.size))
    root = int(flat.argmax())
    order, parents = breadth_first_order(minimum_spanning_tree(graph), root, directed=False)
    differences = np.zeros(logs.size)
    children, above = order[1:], parents[order[1:]]
    forward = children > above
    edge = np.where(forward, above, children)
    bin_, frame = np.divmod(edge, logs.shape[1])
    along_frames = np.abs(children - above) == 1 if logs.shape[1] > 1 else np.zeros(len(children), bool)
    index = np.where(
        along_frames,
        bin_ * (logs.shape[1] - 1) + frame,
        logs.shape[0] * (logs.shape[1] - 1) + edge,
    )
    differences[children] = np.where(forward, 1, -1) * steps[index]
    return _path_sums(differences, parents, root)


def _path_sums(differences: Array, parents: NDArray[np.int32], root: int) -> Array:
    """Sums of `differences` from every node up to the root, by doubling the reach of each step."""
    sums, above = differences, np.where(parents < 0, root, parents)
    while (above != root).any():
        sums, above = sums + sums[above], above[above]
    return sums
