from __future__ import annotations

import pytest
import torch

from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.shift import DistributionShift
from stable_audio.diffusion.timesteps import (
    TIMESTEP_SAMPLERS,
    LogSnr,
    Timesteps,
    TruncatedLogitNormal,
    Uniform,
)


def _ks(values: torch.Tensor, cdf) -> float:
    """Largest distance between the empirical distribution function and `cdf`."""
    ordered = values.double().sort().values
    n = len(ordered)
    expected = cdf(ordered)
    return float((torch.arange(1, n + 1) / n - expected).abs().max())


def _logit_cdf(mean: float, std: float):
    return lambda t: torch.special.ndtr((torch.logit(t) - mean) / std)


DISTRIBUTIONS = {
    "uniform": lambda t: t,
    "logit_normal": _logit_cdf(0.0, 1.0),
    # t = sigmoid(-l), l ~ N(-1.2, 2), so that logit(t) ~ N(1.2, 2)
    "log_snr": _logit_cdf(1.2, 2.0),
    # t = sigmoid(-l), l uniform in [-6, 5], so that logit(t) is uniform in [-5, 6]
    "log_snr_uniform": lambda t: (torch.logit(t) + 5) / 11,
    "trunc_logit_normal": lambda t: 1 - _trunc_cdf(1 - t),
}


def _trunc_cdf(s: torch.Tensor) -> torch.Tensor:
    """Of (s - left) / (1 - left), s = sigmoid(z) given z > Phi^-1(Phi(logit(left))) = logit(left)."""
    left = torch.tensor(0.075, dtype=torch.float64)
    low = torch.special.ndtr(torch.logit(left))
    return (torch.special.ndtr(torch.logit(left + s * (1 - left))) - low) / (1 - low)


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
def test_distribution(name: str) -> None:
    t = Timesteps(TIMESTEP_SAMPLERS[name](), seed=1)(20_000)
    assert t.dtype == torch.float32
    assert _ks(t, DISTRIBUTIONS[name]) < 0.012
    assert ((t >= 0) & (t <= 1)).all()
    loose = TIMESTEP_SAMPLERS[name]()(20_000, generator=torch.Generator().manual_seed(0))
    assert _ks(loose, DISTRIBUTIONS[name]) < 0.015


def test_uniform_batches_are_even_and_differ() -> None:
    """Sobol: each aligned block of 16 has one value in every sixteenth."""
    stream = Timesteps(Uniform(), seed=3)
    blocks = [stream(16) for _ in range(20)]
    assert all((b * 16).floor().sort().values.tolist() == list(range(16)) for b in blocks)
    assert len({round(float(v), 7) for b in blocks for v in b}) == 320


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
def test_resuming_continues_the_stream(name: str) -> None:
    first = Timesteps(TIMESTEP_SAMPLERS[name](), seed=5, p_one_shot=0.3)
    first(7)
    state = first.state_dict()
    expected = [first(5), first(3)]
    second = Timesteps(TIMESTEP_SAMPLERS[name](), seed=99, p_one_shot=0.3)
    second.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(expected, [second(5), second(3)]))


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
def test_ranks_share_out_what_one_process_would_see(name: str) -> None:
    def stream(rank: int, world_size: int) -> Timesteps:
        return Timesteps(TIMESTEP_SAMPLERS[name](), seed=5, p_one_shot=0.2, rank=rank, world_size=world_size)

    alone, ranks = stream(0, 1), [stream(r, 2) for r in (0, 1)]
    for _ in range(3):
        assert torch.equal(alone(8), torch.cat([r(4) for r in ranks]))


def test_a_used_up_sequence_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stable_audio.diffusion.timesteps._LONGEST", 16)
    stream = Timesteps(Uniform(), seed=1)
    blocks = [stream(16) for _ in range(3)]
    assert not torch.equal(blocks[0], blocks[1])
    resumed = Timesteps(Uniform(), seed=7)
    resumed.load_state_dict(stream.state_dict())
    assert torch.equal(stream(16), resumed(16))


def test_one_shot_share() -> None:
    t = Timesteps(Uniform(), p_one_shot=0.25, seed=0)(8000)
    assert float((t == 1).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert (Timesteps(Uniform(), p_one_shot=1.0)(10) == 1).all()


def test_shift_comes_after_the_distribution() -> None:
    shift = DistributionShift()
    plain, shifted = Timesteps(Uniform(), seed=2), Timesteps(Uniform(), seed=2, shift=shift)
    assert torch.allclose(shifted(50, length=2048), shift(plain(50), 2048))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncatedLogitNormal(left_trunc=1.0), "left_trunc must be between 0 and 1, found 1.0"),
        (lambda: LogSnr(std_logsnr=0), "std_logsnr must be above 0, found 0"),
        (lambda: Timesteps(Uniform(), p_one_shot=1.5), "p_one_shot .* found 1.5"),
        (lambda: Timesteps(Uniform(), rank=2, world_size=2), "rank must be below world_size 2, found 2"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_seeded_noise_depends_on_the_seed_of_the_item_alone() -> None:
    like = torch.zeros(2, 3, 4)
    both, swapped = SeededNoise([1, 2]), SeededNoise([2, 1])
    for _ in range(3):
        a, b = both(like), swapped(like)
        assert torch.equal(a, b.flip(0))
    assert not torch.equal(both(like), both(like))
    with pytest.raises(ValueError, match="2 seeds were given for a batch of 3"):
        both(torch.zeros(3, 3, 4))
