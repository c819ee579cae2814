"""The distance in a speech network: which layers, which gradients, what is loaded when."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.pretransforms.losses import HubertLoss
from stable_audio.pretransforms.losses.hubert import SPEECH_MODELS

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
}
KINDS = {"hubert": "Hubert", "wavlm": "WavLM", "wav2vec2": "Wav2Vec2"}


def save_tiny(kind: str, folder: Path) -> str:
    """A network of this kind with random weights, as transformers saves it."""
    library: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(library, f"{KINDS[kind]}Config")(**SIZES)
    getattr(library, f"{KINDS[kind]}Model")(config).save_pretrained(folder)
    return str(folder)


def sounds(*, n: int = 1600, rate: int = 16_000) -> tuple[Tensor, Tensor]:
    t = torch.arange(n) / rate
    left, right = torch.sin(2 * torch.pi * 440 * t), torch.sin(2 * torch.pi * 300 * t)
    real = 0.3 * torch.stack([left, right]).expand(2, -1, -1)
    return real, real + 0.1 * torch.randn(2, 2, n, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mean_distance_of_the_layers_of_transformers(kind: str, tmp_path: Path) -> None:
    library: Any = pytest.importorskip("transformers")
    folder = save_tiny(kind, tmp_path)
    network = library.AutoModel.from_pretrained(folder).eval()
    real, made = sounds()

    def layers(audio: Tensor) -> tuple[Tensor, ...]:
        x = audio.reshape(4, -1)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
        with torch.no_grad():
            return network(x, output_hidden_states=True).hidden_states

    pairs = list(zip(layers(made), layers(real)))
    assert len(pairs) == 4
    distances = [F.l1_loss(a, b) for a, b in pairs[1:]]
    every = HubertLoss(sample_rate=16_000, model_name=folder)(real, made)
    torch.testing.assert_close(every, torch.stack(distances).mean())
    some = HubertLoss(sample_rate=16_000, model_name=folder, feature_ids=[0, 2])(real, made)
    torch.testing.assert_close(some, (distances[0] + distances[2]) / 2)
    assert HubertLoss(sample_rate=16_000, model_name=folder)(real, real) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_second_sound_and_nothing_else(kind: str, tmp_path: Path) -> None:
    loss = HubertLoss(sample_rate=16_000, model_name=save_tiny(kind, tmp_path)).train()
    real, made = (x.clone().requires_grad_() for x in sounds())
    loss(real, made).backward()
    assert made.grad is not None
    assert (made.grad.abs().sum(-1) > 0).all()  # in every channel
    assert real.grad is None
    network = loss.network("cpu")
    assert not network.training
    assert all(not p.requires_grad and p.grad is None for p in network.parameters())
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_the_gradient_is_the_slope(tmp_path: Path) -> None:
    """Through the resampling as well."""
    loss = HubertLoss(sample_rate=44_100, model_name=save_tiny("hubert", tmp_path))
    real, made = (x.double() for x in sounds(n=2205, rate=44_100))
    loss.network("cpu").double()
    made.requires_grad_()
    value = loss(real, made)
    value.backward()
    assert made.grad is not None
    step = 1e-6 * made.grad / made.grad.norm()
    with torch.no_grad():
        slope = (loss(real, made + step) - loss(real, made - step)) / (2 * step.norm())
    torch.testing.assert_close(slope, made.grad.norm(), rtol=1e-4, atol=0)


def test_other_rates_are_heard_at_16_khz(tmp_path: Path) -> None:
    """The same sound, sampled at 44.1 and at 48 kHz, has the layers that it has at 16 kHz."""
    folder = save_tiny("wavlm", tmp_path)

    def layer(rate: int) -> Tensor:
        audio, _ = sounds(n=rate // 4, rate=rate)
        loss = HubertLoss(sample_rate=rate, model_name=folder, feature_ids=[0])
        return loss.layers(audio)[0][:, 20:380]

    for rate in (44_100, 48_000):
        torch.testing.assert_close(layer(rate), layer(16_000), atol=0.01, rtol=0)


def test_nothing_is_loaded_before_it_is_used(tmp_path: Path) -> None:
    HubertLoss(sample_rate=16_000, model_name=str(tmp_path / "nothing"))


def test_names_of_configs_are_hub_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    library: Any = pytest.importorskip("transformers")
    asked = []

    def refuse(name: str, **_: Any) -> None:
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr(library.AutoConfig, "from_pretrained", refuse)
    for name in SPEECH_MODELS:
        with pytest.raises(OSError, match=f"model_name '{name}'"):
            HubertLoss(sample_rate=16_000, model_name=name)(*sounds())
    assert asked == ["facebook/hubert-large-ll60k", "microsoft/wavlm-large", "facebook/wav2vec2-large-lv60"]


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"stable-audio\[codecs\]"):
        HubertLoss(sample_rate=16_000)(*sounds())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    library: Any = pytest.importorskip("transformers")
    tiny = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1, "d_kv": 8, "vocab_size": 8}
    library.T5Config(**tiny).save_pretrained(tmp_path / "t5")
    with pytest.raises(OSError, match="kind 't5', not one of hubert"):
        HubertLoss(sample_rate=16_000, model_name=str(tmp_path / "t5"))(*sounds())
    folder = save_tiny("hubert", tmp_path / "hubert")
    with pytest.raises(ValueError, match=r"has 3, but .* has layers 0 to 2"):
        HubertLoss(sample_rate=16_000, model_name=folder, feature_ids=[3])(*sounds())
    with pytest.raises(ValueError, match="at least 20 samples at 16000 Hz, found 19"):
        HubertLoss(sample_rate=16_000, model_name=folder)(*sounds(n=19))
    with pytest.raises(ValueError, match=r"found \[-1\]"):
        HubertLoss(sample_rate=16_000, feature_ids=[-1])
