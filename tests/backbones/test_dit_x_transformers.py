"""The x-transformers package inside the DiT."""

from __future__ import annotations

import builtins
import copy
from typing import Any

import pytest
import torch

from stable_audio.backbones import DiT
from stable_audio.types import Conditioning

pytest.importorskip("x_transformers")

BASE: dict[str, Any] = {
    "io_channels": 3,
    "embed_dim": 64,
    "depth": 1,
    "num_heads": 2,
    "cond_token_dim": 6,
    "transformer_type": "x-transformers",
}


def run(dit: DiT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 8, generator=generator)
    cond = Conditioning(cross_attn=torch.randn(2, 5, 6, generator=generator))
    return dit(x, torch.tensor([0.2, 0.7]), cond)


@pytest.mark.parametrize(
    "keywords",
    [
        {"attn_qk_norm": True, "attn_kv_heads": 1, "use_rmsnorm": True},
        {"ff_mult": 2, "ff_relu_squared": True, "ff_swish": False, "ff_glu": False},
        {"attn_flash": False, "attn_num_mem_kv": 2, "attn_pre_talking_heads": True},
        {"macaron": True, "gate_residual": True, "attn_gate_values": True},
        {"cross_attn_qk_norm": True, "use_layerscale": True, "layerscale_init_value": 0.1},
        {"custom_layers": ["a", "c", "f", "a", "f"]},
    ],
)
def test_keywords_reach_the_package(keywords: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = DiT(**BASE)
    if "custom_layers" in keywords:
        dit = DiT(**{**BASE, "depth": 1}, attn_layers_kwargs=keywords)
    else:
        dit = DiT(**BASE, attn_layers_kwargs=keywords)
    assert run(dit).isfinite().all()
    assert {k: v.shape for k, v in dit.state_dict().items()} != {
        k: v.shape for k, v in plain.state_dict().items()
    }


def test_wrapper_keywords_reach_the_package() -> None:
    dit = DiT(**BASE, num_memory_tokens=3, wrapper_kwargs={"post_emb_norm": True})
    assert dit.transformer.memory_tokens.shape == (3, 64)
    assert any("post_emb_norm" in k for k in dit.state_dict())
    assert run(dit).shape == (2, 3, 8)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"attn_layers_kwargs": {"attn_qk_nrom": True}}, "did you mean 'attn_qk_norm'"),
        ({"attn_layers_kwargs": {"depth": 3}}, "follows from 'depth'"),
        ({"wrapper_kwargs": {"max_seq_len": 3}}, "follows from 'abs_pos_emb_max_length'"),
        ({"wrapper_kwargs": {"emb_dropuot": 0.1}}, "did you mean 'emb_dropout'"),
        ({"wrapper_kwargs": {"probabilistic": True}}, "change the form of the output"),
        ({"conformer": True}, r"\['conformer'\] apply to transformer_type 'continuous_transformer'"),
    ],
)
def test_mistakes_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiT(**{**BASE, **kwargs})


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("x_transformers"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"stable-audio\[x-transformers\]"):
        DiT(**BASE)


def test_a_copy_keeps_its_own_checkpointing() -> None:
    """Averages of weights are deep copies; switching theirs must not switch the model's."""
    dit = DiT(**BASE)
    other = copy.deepcopy(dit)
    other.enable_gradient_checkpointing()
    assert other.transformer.gradient_checkpointing
    assert not dit.transformer.gradient_checkpointing
    torch.testing.assert_close(run(other), run(dit))


def test_hidden_states_need_our_own_transformer() -> None:
    with pytest.raises(ValueError, match="continuous_transformer"):
        DiT(**BASE).hidden_states(torch.randn(1, 3, 8), torch.rand(1), Conditioning())
