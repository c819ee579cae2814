"""Windows over a clip, the noise of a sound, and points between noises and conditionings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stable_audio.diffusion.denoiser import Output
from stable_audio.diffusion.inversion import noise_of
from stable_audio.diffusion.mixing import mixed_conditioning, mixed_noise
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.sampling import sample
from stable_audio.diffusion.spaces import SPACES
from stable_audio.diffusion.windows import Windows
from stable_audio.types import Conditioning

CLIPS = st.tuples(st.integers(1, 60), st.integers(1, 24), st.booleans()).flatmap(
    lambda v: st.builds(
        Windows,
        frames=st.just(v[0]),
        size=st.just(v[1]),
        overlap=st.integers(0, v[1] - 1),
        circular=st.just(v[2]),
    )
)


@settings(max_examples=100, deadline=None)
@given(CLIPS)
def test_windows_cover_every_frame_and_average_equal_outputs_to_themselves(windows: Windows) -> None:
    x = torch.randn(2, 3, windows.frames, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes: list[int] = []

    def predict(part: Tensor, t: Tensor, frames: Tensor) -> Output:
        sizes.append(part.shape[-1])
        return Output(2 * part, part)

    output = windows.averaged(predict)(x, torch.zeros(2))
    assert torch.allclose(output.value, 2 * x)
    assert output.uncond is not None
    assert torch.allclose(output.uncond, x)
    assert set(sizes) == {windows.size if windows.circular else min(windows.size, windows.frames)}


@pytest.mark.parametrize("frames", [10, 16, 40])
def test_on_a_circle_the_end_leads_into_the_beginning(frames: int) -> None:
    """What a window says of its own end counts little, and nothing of another one where the clip begins."""
    windows = Windows(frames=frames, size=16, overlap=4, circular=True)

    def predict(part: Tensor, t: Tensor, places: Tensor) -> Output:
        inside = torch.ones(len(places))
        inside[min(frames, 16) - 1] = 0
        return Output(inside.expand_as(part), (places[0] == 0).float().expand_as(part))

    output = windows.averaged(predict)(torch.zeros(1, 1, frames), torch.zeros(1))
    assert float(output.value[0, 0, -1]) >= 0.75
    assert output.uncond is not None
    assert frames > 16 or output.uncond[0, 0, : frames - 4].tolist() == [1.0] * (frames - 4)


def test_windows_of_frames_that_do_not_matter_are_left_out() -> None:
    windows, calls = Windows(frames=40, size=10, overlap=2), []
    skip = torch.arange(40) < 30

    def predict(part: Tensor, t: Tensor, frames: Tensor) -> Output:
        calls.append(frames.tolist())
        return Output(torch.ones_like(part))

    value = windows.averaged(predict, skip)(torch.zeros(1, 1, 40), torch.zeros(1)).value
    assert all(frames[-1] >= 30 for frames in calls)
    assert float(value[..., 30:].min()) == 1.0


def test_a_window_as_short_as_the_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap 4 and size 4"):
        Windows(frames=40, size=4, overlap=4)


def _gaussian(x: Tensor, t: Tensor) -> Tensor:
    """Velocity for data of mean 1 and deviation 0.5."""
    s = float(t[0])
    alpha, variance = 1 - s, 0.25 * (1 - s) ** 2 + s**2
    denoised = 1 + 0.25 * alpha / variance * (x - alpha)
    return s / variance * (x - alpha) - denoised


@pytest.mark.parametrize(("space", "level"), [("flow", 1.0), ("flow", 0.6), ("vp", 0.6), ("ve", 80.0)])
def test_the_noise_of_a_sound_gives_it_back(space: str, level: float) -> None:
    x0 = 1 + 0.5 * torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    objective = OBJECTIVES["rectified_flow"]()
    noise = noise_of(_gaussian, x0, objective=objective, level=level, space=SPACES[space], steps=100)
    # The flow of a Gaussian keeps the number of deviations from the mean:
    # (x - alpha) / scale = (x0 - 1) / 0.5.
    alpha, sigma = SPACES[space].path(level)
    scale = math.hypot(0.5 * alpha, sigma)
    expected = (alpha + scale * (x0 - 1) / 0.5 - alpha * x0) / sigma
    assert torch.allclose(noise, expected, atol=5e-3)
    sampler = {"flow": "rk4", "vp": "ddim", "ve": "k-heun"}[space]
    again = sample(
        _gaussian,
        noise,
        objective=objective,
        noise=SeededNoise(range(4)),
        init=x0,
        sampler=sampler,
        sigma_max=level,
        steps=200,
    )
    assert torch.allclose(again, x0, atol=0.02)


def test_mixed_noise_keeps_its_variance_and_ends_at_both() -> None:
    noise = SeededNoise([0, 1, 2])
    a, b = (noise(torch.empty(3, 1, 40_000)) for _ in range(2))
    mixed = mixed_noise(a, b, [0.0, 0.3, 1.0])
    assert torch.equal(mixed[0], a[0])
    assert torch.equal(mixed[2], b[2])
    assert abs(float(mixed[1].std()) - 1) < 0.02  # five standard errors of 40,000 draws
    angle = math.acos(float(torch.corrcoef(torch.stack([mixed[1, 0], a[1, 0]]))[0, 1]))
    assert angle == pytest.approx(0.3 * math.pi / 2, abs=0.03)


def test_mixed_conditioning_lies_between_in_every_slot() -> None:
    def cond(value: float, tokens: int) -> Conditioning:
        return Conditioning(
            cross_attn=torch.full((2, tokens, 4), value),
            cross_attn_mask=torch.ones(2, tokens, dtype=torch.bool),
            global_cond=torch.full((2, 4), value),
            modular_local={"f0": torch.full((2, 1, 6), value)},
        )

    mixed = mixed_conditioning(cond(1.0, 2), cond(3.0, 3), [0.0, 0.25])
    assert mixed.global_cond is not None
    assert mixed.cross_attn is not None
    assert mixed.global_cond[:, 0].tolist() == [1.0, 1.5]
    assert mixed.cross_attn[1, :, 0].tolist() == [1.5, 1.5, 0.75]
    assert mixed.cross_attn_mask is not None
    assert mixed.cross_attn_mask.tolist() == [[True, True, False], [True, True, True]]
    assert mixed.modular_local is not None
    assert mixed.modular_local["f0"][:, 0, 0].tolist() == [1.0, 1.5]
    with pytest.raises(ValueError, match="different slots"):
        mixed_conditioning(cond(1.0, 2), Conditioning(global_cond=torch.zeros(2, 4)), [0.5, 0.5])
