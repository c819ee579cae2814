"""Bottlenecks: formulas, tokens, gradients, learning codebooks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.pretransforms import BOTTLENECKS
from stable_audio.pretransforms.bottlenecks.base import Bottleneck, DiscreteBottleneck
from stable_audio.pretransforms.bottlenecks.codebook import EMACodebook, ResidualVQ, kmeans
from stable_audio.pretransforms.bottlenecks.fsq import DitheredFSQ
from tests import tiny


def build(name: str, **changes: object) -> Bottleneck:
    return BOTTLENECKS[name](**{**tiny.BOTTLENECKS[name], **changes})


def features(bottleneck: Bottleneck, b: int = 3, n: int = 20) -> Tensor:
    return torch.randn(b, 4 * bottleneck.input_multiple, n)


@pytest.fixture(params=sorted(tiny.BOTTLENECKS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def discrete() -> list[str]:
    return [n for n, kind in BOTTLENECKS.items() if issubclass(kind, DiscreteBottleneck)]


def test_tiny_configs_cover_the_registry() -> None:
    assert set(tiny.BOTTLENECKS) == set(BOTTLENECKS)


def test_declared_widths(name: str) -> None:
    for mode in (True, False):
        bottleneck = build(name).train(mode)
        assert bottleneck.channels in (4, None)
        latents, info = bottleneck.encode(features(bottleneck))
        assert latents.shape == (3, 4, 20)
        decoded = bottleneck.decode(latents)
        assert decoded.shape == (3, 4 + bottleneck.decoder_channels_added, 20)
        known = set(bottleneck.loss_weights) & set(info)
        assert all(info[k].ndim == 0 and info[k].isfinite() for k in known)
        if mode:
            assert known == set(bottleneck.loss_weights)


def test_gradient_reaches_the_input(name: str) -> None:
    bottleneck = build(name).train()
    x = features(bottleneck).requires_grad_()
    latents, info = bottleneck.encode(x)
    (latents.square().sum() + sum(info[k] for k in bottleneck.loss_weights)).backward()
    assert x.grad is not None
    assert (x.grad.abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize("name", discrete())
def test_tokens_decode_to_the_latents(name: str) -> None:
    bottleneck = build(name)
    assert isinstance(bottleneck, DiscreteBottleneck)
    bottleneck.train()
    bottleneck.encode(features(bottleneck, b=8))  # k-means needs a batch
    bottleneck.eval()
    latents, info = bottleneck.encode(features(bottleneck))
    tokens = info["tokens"]
    assert tokens.shape == (3, bottleneck.num_quantizers, 20)
    assert tokens.dtype == torch.int64
    assert tokens.min() >= 0
    assert tokens.max() < bottleneck.codebook_size
    torch.testing.assert_close(bottleneck.decode_tokens(tokens), latents)


@pytest.mark.parametrize("name", ["rvq", "dac_rvq"])
def test_more_codebooks_come_closer(name: str) -> None:
    torch.manual_seed(0)
    bottleneck = build(name).train()
    rows = torch.randn(64, 4, 1).repeat(1, 1, 4)
    optimizer = torch.optim.Adam(list(bottleneck.parameters()) or [torch.zeros(1)], lr=1e-2)
    for _ in range(150):
        latents, info = bottleneck.encode(rows)
        loss = F.mse_loss(latents, rows) + sum(info[k] for k in bottleneck.loss_weights)
        if loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    bottleneck.eval()
    tokens = bottleneck.encode(rows)[1]["tokens"]
    errors = [F.mse_loss(bottleneck.decode_tokens(tokens[:, :k]), rows).item() for k in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.15


def test_vae_mean_noise_and_divergence() -> None:
    x = torch.randn(2, 8, 50)
    mean, std = x[:, :4], F.softplus(x[:, 4:]) + 1e-4
    latents, info = BOTTLENECKS["vae"]().encode(x, noise=lambda like: torch.full_like(like, 2.0))
    torch.testing.assert_close(latents, mean + 2 * std)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(info["kl"], 2 * exact.sum(1).mean())
    assert torch.equal(BOTTLENECKS["vae"](sample=False).eval().encode(x)[0], mean)
    assert not torch.equal(BOTTLENECKS["vae"](sample=False).train().encode(x)[0], mean)


def test_gaussian_clamps_its_log_variance() -> None:
    x = torch.cat([torch.zeros(1, 2, 3), torch.tensor([100.0, -100.0]).view(1, 2, 1).expand(1, 2, 3)], 1)
    latents, _ = BOTTLENECKS["gaussian"]().encode(x, noise=torch.ones_like)
    expected = torch.tensor([20.0, -30.0]).mul(0.5).exp()
    torch.testing.assert_close(latents[0, :, 0], expected)


def test_gaussian_mean_noise_and_divergence() -> None:
    x = torch.randn(2, 8, 50)
    mean, std = x[:, :4], (0.5 * x[:, 4:]).exp()
    latents, info = BOTTLENECKS["gaussian"]().encode(x, noise=lambda like: torch.full_like(like, 2.0))
    torch.testing.assert_close(latents, mean + 2 * std)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(info["kl"], exact.sum((1, 2)).mean())


def test_wasserstein_discrepancy_sees_the_distribution() -> None:
    bottleneck = BOTTLENECKS["wasserstein"]().train()
    torch.manual_seed(0)
    good = bottleneck.encode(torch.randn(8, 4, 50))[1]["mmd"]
    bad = bottleneck.encode(3 + torch.randn(8, 4, 50))[1]["mmd"]
    assert good < 0.01 < bad
    assert "mmd" not in BOTTLENECKS["wasserstein"](bypass_mmd=True).train().encode(torch.randn(2, 4, 9))[1]


def test_wasserstein_discrepancy_is_its_formula() -> None:
    """With a Gaussian kernel exp(-|a - b|^2 / d^2) over all pairs of frames."""
    x, noise = torch.randn(2, 4, 5).double(), torch.randn(10, 4).double()
    _, info = BOTTLENECKS["wasserstein"]().train().encode(x, noise=lambda like: noise)
    frames = [x[i, :, n] for i in range(2) for n in range(5)]
    draws = list(noise)

    def kernel(first: list[Tensor], second: list[Tensor]) -> float:
        values = [math.exp(-float(sum((a - b) ** 2)) / 16) for a in first for b in second]
        return sum(values) / len(values)

    expected = kernel(frames, frames) + kernel(draws, draws) - 2 * kernel(frames, draws)
    assert float(info["mmd"]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_softnorm_scale_and_loss() -> None:
    bottleneck = BOTTLENECKS["softnorm"](dim=4, auto_scale=True)
    x = 5 * torch.randn(8, 4, 400)
    loud = bottleneck.encode(x)[1]["softnorm"]
    quiet = bottleneck.encode(x / 5)[1]["softnorm"]
    assert quiet < loud
    for _ in range(4000):
        bottleneck.encode(x)
    bottleneck.eval()
    latents, info = bottleneck.encode(x)
    assert info == {}
    assert latents.std().item() == pytest.approx(1.0, abs=0.1)
    torch.testing.assert_close(bottleneck.decode(latents), x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("freeze", [False, True])
def test_softnorm_is_its_formula(training: bool, freeze: bool) -> None:
    options = {"dim": 3, "noise_augment_dim": 2, "noise_regularize": True, "auto_scale": True}
    bottleneck = BOTTLENECKS["softnorm"](**options, freeze=freeze).double().train(training)
    with torch.no_grad():
        for p in bottleneck.parameters():
            p.copy_(torch.rand_like(p) + 0.5)
    gain, offset, spread = bottleneck.scaling_factor, bottleneck.bias, bottleneck.running_std.clone()
    x = torch.randn(2, 3, 50, dtype=torch.float64)
    latents, info = bottleneck.encode(x)
    y = x * gain + offset
    if training and not freeze:
        spread = 0.999 * spread + 0.001 * y.std()
    torch.testing.assert_close(bottleneck.running_std.detach(), spread.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(latents, y / spread, rtol=1e-6, atol=1e-6)
    if training:
        terms = []
        for axis in (2, 1):
            mean, var = latents.mean(axis), latents.var(axis, correction=0)
            terms.append((mean**2 + var - var.log() - 1).mean())
        torch.testing.assert_close(info["softnorm"], terms[0] + 0.4 * terms[1], rtol=1e-6, atol=0)
    assert bottleneck.scaling_factor.requires_grad is not freeze
    draws = [torch.randn(2, 3, 50).double(), torch.randn(2, 2, 50).double()]
    queue = iter(draws)
    decoded = bottleneck.decode(latents, noise=lambda like: next(queue).to(like))
    raw = latents * spread
    raw = raw + (5e-2 if training else 1e-3) * raw.std() * draws[0]
    expected = torch.cat([raw, draws[1] * bottleneck.noise_scaling_factor], dim=1)
    torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softnorm", {"dim": 3, "noise_regularize": True}),
        ("softnorm", {"dim": 3, "noise_augment_dim": 2}),
        ("wasserstein", {"noise_augment_dim": 2}),
    ],
)
def test_latents_decode_to_one_sound(name: str, options: dict[str, Any]) -> None:
    bottleneck = BOTTLENECKS[name](**options).eval()
    latents = torch.randn(1, 3, 20)
    first = bottleneck.decode(latents)
    assert torch.equal(bottleneck.decode(latents), first)
    # The level of the noise in 3 channels is that of the batch; noise in channels of its own has none.
    both = bottleneck.decode(torch.cat([latents, latents]))
    torch.testing.assert_close(both[1:], first, atol=1e-4, rtol=0)
    bottleneck.train()
    assert not torch.equal(bottleneck.decode(latents), bottleneck.decode(latents))


def test_kmeans_finds_clusters_and_the_codebook_starts_there() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 10.0], [10.0, 0.0], [-10.0, 0.0]])
    rows = (centres[:, None] + 0.1 * torch.randn(3, 50, 2)).flatten(0, 1)
    best = min((kmeans(rows, 3, 20)[0] for _ in range(5)), key=lambda m: torch.cdist(rows, m).amin(1).sum())
    torch.testing.assert_close(best[best[:, 0].argsort()], centres[centres[:, 0].argsort()], atol=0.1, rtol=0)


def codebook(**changes: object) -> EMACodebook:
    options = {
        "dim": 2,
        "size": 4,
        "decay": 0.5,
        "kmeans_init": False,
        "kmeans_iters": 5,
        "threshold_ema_dead_code": 0,
    }
    return EMACodebook(**{**options, **changes})  # type: ignore[arg-type]


def test_codes_follow_the_moving_average() -> None:
    book = codebook()
    book.cluster_size.fill_(1)
    book.embed_avg.copy_(book.embed)
    start, rows = book.embed[0].clone(), torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    book.update(rows, torch.tensor([1, 1]))
    size, total = torch.tensor([0.5, 1.5, 0.5, 0.5]), start * 0.5
    total[1] += 0.5 * rows.sum(0)
    smoothed = (size + 1e-5) / (3.0 + 4e-5) * 3.0
    torch.testing.assert_close(book.embed[0], total / smoothed[:, None])


def test_dead_codes_are_replaced_by_rows() -> None:
    torch.manual_seed(0)
    book = codebook(threshold_ema_dead_code=1)
    rows = 100 + torch.randn(20, 2)
    for _ in range(8):
        book.update(rows, book.assign(rows))
    assert (book.embed[0] > 50).all()


def test_quantizer_dropout_drops_the_last_ones() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVQ(
        dim=4, codebook_size=8, num_quantizers=4, quantize_dropout=True, quantize_dropout_multiple_of=2
    ).train()
    counts = set()
    for _ in range(20):
        dropped = (quantizer(torch.randn(2, 4, 16))[1] < 0).all(0).all(-1)
        counts.add(int((~dropped).sum()))
        assert dropped.tolist() == sorted(dropped.tolist())
    assert counts == {2, 4}
    assert (quantizer.eval()(torch.randn(2, 4, 16))[1] >= 0).all()


def test_rvq_equals_the_reference_library() -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    theirs = library.ResidualVQ(dim=6, codebook_size=16, num_quantizers=3, codebook_dim=4).eval()
    ours = ResidualVQ(dim=6, codebook_size=16, num_quantizers=3, codebook_dim=4).eval()
    state = {k: v.reshape(1) if k.endswith("initted") else v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = torch.randn(2, 6, 9)
    quantised, tokens, _ = theirs(x.mT)
    found, found_tokens, loss = ours(x)
    torch.testing.assert_close(found, quantised.mT)
    assert torch.equal(found_tokens, tokens.mT)
    assert loss == 0


@pytest.mark.parametrize(("levels", "dim", "codebooks"), [([8, 5, 5], 3, 1), ([4, 3], 5, 2)])
def test_fsq_equals_the_reference_library(levels: list[int], dim: int, codebooks: int) -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.FSQ(levels=levels, dim=dim, num_codebooks=codebooks, keep_num_codebooks_dim=True)
    ours = BOTTLENECKS["fsq"](levels=levels, dim=dim, num_codebooks=codebooks)
    ours.quantizer.load_state_dict(theirs.state_dict())
    x = 2 * torch.randn(2, dim, 30)
    quantised, tokens = theirs(x.mT)
    found, info = ours.encode(x)
    torch.testing.assert_close(found, quantised.mT)
    assert torch.equal(info["tokens"], tokens.mT.long())


def test_dithered_fsq_rounds_and_numbers_each_codebook_for_itself() -> None:
    """Channels of a codebook lie side by side; its token counts the first channel fastest."""
    levels, codebooks = [7, 5, 4], 2
    bottleneck = BOTTLENECKS["dithered_fsq"](dim=3, levels=levels, num_codebooks=codebooks).eval()
    assert list(bottleneck.state_dict()) == []
    x = 2 * torch.randn(2, 3 * codebooks, 11)
    latents, info = bottleneck.encode(x)
    expected, tokens = torch.empty_like(x), torch.zeros(2, codebooks, 11, dtype=torch.int64)
    for book in range(codebooks):
        weight = 1
        for channel, count in enumerate(levels):
            row = book * 3 + channel
            level = ((torch.tanh(x[:, row]) + 1) / 2 * (count - 1)).round()
            expected[:, row] = 2 * level / (count - 1) - 1
            tokens[:, book] += weight * level.long()
            weight *= count
    torch.testing.assert_close(latents, expected)
    assert torch.equal(info["tokens"], tokens)
    torch.testing.assert_close(bottleneck.decode_tokens(tokens), expected)


def test_dithered_fsq_repeats_one_number_of_levels_for_every_channel_of_a_codebook() -> None:
    bottleneck = BOTTLENECKS["dithered_fsq"](dim=2, levels=5, num_codebooks=3)
    assert (bottleneck.channels, bottleneck.codebook_size, bottleneck.num_quantizers) == (6, 25, 3)


def test_each_item_is_rounded_and_then_dithered_by_two_independent_draws() -> None:
    torch.manual_seed(0)
    quantizer = DitheredFSQ([5], 1, noise_dropout=0.2).train()
    x = torch.full((4000, 1, 16), 0.3)
    found = quantizer(x)[0].flatten(1)
    bounded = torch.tanh(torch.tensor(0.3))
    rounded = ((found - 0.5).abs() < 1e-6).all(1)
    passed = ((found - bounded).abs() < 1e-6).all(1)
    # Dithered: 0.8. Of the rest, 0.8 were rounded before and 0.2 were not.
    assert rounded.float().mean().item() == pytest.approx(0.16, abs=0.03)
    assert passed.float().mean().item() == pytest.approx(0.04, abs=0.015)
    dithered = found[~rounded & ~passed] - bounded
    assert dithered.abs().max() <= 0.25
    assert dithered.mean().item() == pytest.approx(0, abs=0.01)
    assert dithered.square().mean().item() == pytest.approx(0.5**2 / 12, rel=0.05)
    assert (quantizer.eval()(x)[0] - 0.5).abs().max() < 1e-6


def test_dac_rvq_dropout_uses_fewer_codebooks_for_a_share_of_the_batch() -> None:
    torch.manual_seed(0)
    bottleneck = build("dac_rvq", quantizer_dropout=0.5).train()
    kept = torch.stack([bottleneck.quantizer._draw_counts(torch.zeros(8, 4, 2)) for _ in range(50)])
    assert set(kept[:, :4].flatten().tolist()) == {1, 2, 3}
    assert (kept[:, 4:] == 3).all()


def test_quantize_on_decode_gives_numbers_first() -> None:
    bottleneck, x = build("dac_rvq", quantize_on_decode=True), torch.randn(2, 4, 9)
    latents, info = bottleneck.encode(x)
    assert torch.equal(latents, x)
    assert "tokens" not in info
    torch.testing.assert_close(bottleneck.decode(x), bottleneck.decode_tokens(bottleneck.tokens(x)))


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("tanh", {"scale": 0.0}, "positive, found 0.0"),
        ("fsq", {"levels": [1, 5]}, "at least 2"),
        ("fsq", {"levels": [5], "num_codebooks": 2, "keep_num_codebooks_dim": False}, "keep_num_codebooks"),
        ("dithered_fsq", {"dim": 4, "levels": [5, 5], "num_codebooks": 2}, "levels has 2 entries, but dim"),
        ("dithered_fsq", {"dim": 2, "levels": 5, "noise_dropout": 1.5}, "noise_dropout must be"),
        ("dac_rvq", {"codebook_dim": [2]}, "1 entries"),
        ("rvq", {"quantize_dropout_cutoff_index": 8}, "below num_quantizers=8"),
    ],
)
def test_wrong_settings_are_refused(name: str, config: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BOTTLENECKS[name](**config)
