"""Terms of the loss against their formulas."""

from __future__ import annotations

import pytest
import torch

from stable_audio.diffusion.losses import (
    HuberLoss,
    L1Loss,
    LossInputs,
    LossSum,
    MSELoss,
    SpectralLoss,
    Term,
    masked_mean,
)
from stable_audio.diffusion.objectives import OBJECTIVES


def _inputs(mask: torch.Tensor | None = None, objective: str = "v") -> LossInputs:
    generator = torch.Generator().manual_seed(0)
    x0, noise, error = (torch.randn(3, 2, 32, generator=generator) for _ in range(3))
    t = torch.tensor([0.2, 0.5, 0.8])
    chosen = OBJECTIVES[objective]()
    target = chosen.target(x0, noise, t)
    return LossInputs(
        output=target + 0.1 * error,
        target=target,
        x0=x0,
        x_t=chosen.noisy(x0, noise, t),
        t=t,
        objective=chosen,
        mask=mask,
    )


def test_elementwise_terms() -> None:
    inputs = _inputs()
    difference = inputs.output - inputs.target
    assert torch.allclose(MSELoss()(inputs), difference.square().mean())
    assert torch.allclose(L1Loss()(inputs), difference.abs().mean())
    expected = torch.nn.functional.huber_loss(inputs.output, inputs.target, delta=0.05)
    assert torch.allclose(HuberLoss(delta=0.05)(inputs), expected)


@pytest.mark.parametrize("objective", ["v", "rectified_flow", "rf_denoiser"])
def test_denoised_space_compares_with_the_clean_latents(objective: str) -> None:
    inputs = _inputs(objective=objective)
    expected = (inputs.objective.denoised(inputs.output, inputs.x_t, inputs.t) - inputs.x0).abs().mean()
    assert torch.allclose(L1Loss(space="denoised")(inputs), expected)


def test_masked_positions_count_for_nothing() -> None:
    mask = torch.ones(3, 1, 32, dtype=torch.bool)
    mask[1, :, 20:] = False
    mask[2] = False
    inputs = _inputs(mask)
    squared = (inputs.output - inputs.target).square()
    assert torch.allclose(MSELoss()(inputs), squared[mask.expand_as(squared)].mean())
    assert torch.allclose(SpectralLoss()(_inputs()), SpectralLoss()(_inputs(torch.ones_like(mask))))


def test_an_empty_mask_gives_zero_and_no_nan() -> None:
    values = torch.ones(2, 3, 4, requires_grad=True)
    loss = masked_mean(values, torch.zeros(2, 1, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert values.grad is not None
    assert values.grad.eq(0).all()


def test_spectral_term_is_blind_to_phase_only() -> None:
    t = torch.zeros(1)
    wave = torch.sin(torch.arange(256) * 2 * torch.pi * 16 / 256).expand(1, 1, 256)
    objective = OBJECTIVES["rectified_flow"]()

    def distance(denoised: torch.Tensor) -> float:
        # At t = 0 the denoised estimate is x_t itself.
        return float(SpectralLoss(n_ffts=[64])(LossInputs(denoised, denoised, wave, denoised, t, objective)))

    assert distance(-wave) == pytest.approx(0, abs=1e-6)
    assert distance(2 * wave) > 0.1


def test_spectral_term_is_its_formula() -> None:
    """Windows of 16 and 8 frames, a quarter of each apart, without padding; longer ones are left out."""
    mask = torch.ones(3, 1, 32, dtype=torch.bool)
    mask[1, :, 20:] = False
    inputs = _inputs(mask)
    pairs = (inputs.objective.denoised(inputs.output, inputs.x_t, inputs.t) * mask, inputs.x0 * mask)
    distances = []
    for n in (16, 8):
        window = 0.5 - 0.5 * torch.cos(2 * torch.pi * torch.arange(n) / n)
        spectra = [(x.unfold(-1, n, n // 4) * window) @ _fourier(n) for x in (p.cfloat() for p in pairs)]
        estimate, clean = ((s.abs().square() + 1e-8).sqrt() for s in spectra)
        distances.append((estimate - clean).abs().mean())
    found = SpectralLoss(n_ffts=[16, 8, 64])(inputs)
    torch.testing.assert_close(found, (distances[0] + distances[1]) / 2)


def _fourier(n: int) -> torch.Tensor:
    """(n n/2+1): the discrete Fourier transform up to half the rate."""
    phases = -2 * torch.pi / n * torch.arange(n)[:, None] * torch.arange(n // 2 + 1)
    return torch.polar(torch.ones_like(phases), phases)


def test_the_sum_is_weighted_and_labelled() -> None:
    inputs = _inputs()
    loss, terms = LossSum([Term("mse", MSELoss(), 2.0), Term("texture", SpectralLoss(), 0.5)])(inputs)
    assert terms.keys() == {"mse_loss", "texture_loss"}
    assert torch.allclose(loss, 2 * terms["mse_loss"] + 0.5 * terms["texture_loss"])


def test_per_item_values_average_to_the_whole() -> None:
    mask = torch.rand(3, 1, 32, generator=torch.Generator().manual_seed(1)) < 0.5
    inputs = _inputs(mask)
    losses = LossSum([Term("mse", MSELoss())])
    weights = mask.flatten(1).sum(1)
    mean = (losses.per_item(inputs) * weights).sum() / weights.sum()
    assert torch.allclose(mean, losses(inputs)[0])


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="space"):
        MSELoss(space="latent")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="delta"):
        HuberLoss(delta=0)
    with pytest.raises(ValueError, match="n_ffts"):
        SpectralLoss(n_ffts=[])
    with pytest.raises(ValueError, match="first term"):
        LossSum([Term("texture", SpectralLoss())])
