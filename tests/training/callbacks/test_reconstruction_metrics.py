"""What validation of autoencoders measures."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from stable_audio.pretransforms.metrics import PESQ, SISDR
from stable_audio.training.callbacks.item_means import ItemValues, means
from tests.training.autoencoder.test_autoencoder import AUDIO, module_of, tiny_config


def test_si_sdr_rises_with_quality() -> None:
    torch.manual_seed(0)
    real, noise = torch.randn(1, 2, 50_000), torch.randn(1, 2, 50_000)
    assert SISDR()(real, real + 0.1 * noise).item() == pytest.approx(20, abs=0.2)


class FakePESQ(types.ModuleType):
    """Notes what it is given; clips of silence have no speech in them."""

    class PesqError:
        RETURN_VALUES = 1

    def __init__(self) -> None:
        super().__init__("pesq")
        self.heard: list[tuple[int, Any, Any, str]] = []

    def pesq(self, rate: int, real: Any, made: Any, mode: str, on_error: int) -> float:
        self.heard.append((rate, real, made, mode))
        return 3.0 + abs(float(made.max())) if real.any() else -1.0


def test_pesq_hears_the_mean_of_the_channels_at_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakePESQ()
    monkeypatch.setitem(sys.modules, "pesq", fake)
    real = torch.sin(torch.arange(4410) * 0.05).expand(2, 2, -1).clone()
    real[1] = 0
    made = real * torch.tensor([[0.5], [-0.5]])
    found = PESQ(sample_rate=44_100)(real, made)
    assert found == 3.0  # left and right cancel in the first; the second holds no speech
    assert [(rate, x.shape, mode) for rate, x, _, mode in fake.heard] == [(16_000, (1600,), "wb")] * 2
    assert PESQ(sample_rate=44_100)(real[1:], made[1:]).isnan()
    PESQ(sample_rate=44_100, mode="nb")(real, made)
    assert fake.heard[-1][0] == 8000


def test_what_was_not_measured_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pesq", FakePESQ())
    module = module_of(tiny_config(eval_loss_configs={"pesq": {}, "sisdr": {}})).eval()
    batch: Any = types.SimpleNamespace(audio=AUDIO)
    values = module.validation_values(batch, range(len(AUDIO)))
    assert set(values) == {"val/pesq", "val/sisdr"}
    assert all(v.shape == (len(AUDIO),) and not v.isnan().any() for v in values.values())
    batch.audio = torch.zeros_like(AUDIO)
    values = module.validation_values(batch, range(len(AUDIO)))
    assert values["val/pesq"].isnan().all()
    measured = ItemValues()
    measured.add(range(len(AUDIO)), values)
    assert set(means(measured.rows().values())) == {"val/sisdr"}


def test_a_missing_package_names_the_extra_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(ImportError, match=r"eval_loss_configs\.pesq needs .*stable-audio\[pesq\]"):
        module_of(tiny_config(eval_loss_configs={"pesq": {}}))


def test_pesq_itself() -> None:
    pytest.importorskip("pesq")
    torch.manual_seed(0)
    t = torch.arange(44_100 * 2) / 44_100
    # Speech-like: a harmonic tone that comes and goes four times a second.
    voice = sum(torch.sin(2 * torch.pi * 120 * k * t) / k for k in range(1, 20)) * (
        torch.sin(8 * torch.pi * t) > 0
    )
    real = 0.1 * voice.expand(1, 2, -1)
    measure = PESQ(sample_rate=44_100)
    best = measure(real, real)
    bad = measure(real, real + 0.05 * torch.randn_like(real))
    assert best == pytest.approx(4.64, abs=0.01)
    assert 1 <= bad < 3
