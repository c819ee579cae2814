"""clip_text with the weights of a CLIP saved by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.conditioning.clip_text import ClipTextConditioner
from tests.checkpoints.tiny_pipeline import disturb
from tests.conditioning import tiny_encoders as tiny
from tests.conditioning.test_text_encoder import CLIP_TEXT, VISION
from tests.golden.kinds.cond_text import save_tokenizer

pytest.importorskip("transformers")

SIZES = {"width": 16, "layers": 2, "heads": 2, "vocab_size": len(tiny.VOCABULARY), "max_length": 9}


def save(folder: Path, whole: bool, **changes: Any) -> Any:
    """Save a CLIP, whole or its text half; returns the text half."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

    text = {**CLIP_TEXT, "intermediate_size": 64, "hidden_act": "quick_gelu", **changes}
    network: nn.Module
    if whole:
        network = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=6))
    else:
        network = CLIPTextModel(CLIPTextConfig(**text))
    disturb(network)
    network.eval().save_pretrained(folder)
    save_tokenizer(tiny.VOCABULARY, "<s> $A </s>", folder)
    return network.text_model if whole else network


def build(folder: Path, **options: Any) -> ClipTextConditioner:
    return ClipTextConditioner(output_dim=16, weights=str(folder), **{**SIZES, **options}).eval()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_features_are_those_of_the_network(tmp_path: Path, whole: bool, train: bool) -> None:
    network = save(tmp_path, whole)
    conditioner = build(tmp_path, enable_grad=train)
    found, mask = conditioner(tiny.TEXTS, "cpu")
    ids, valid = conditioner.tokenizer(tiny.TEXTS)
    with torch.no_grad():
        output = network(input_ids=ids, attention_mask=valid)
    expected = output.last_hidden_state * valid.unsqueeze(-1)
    torch.testing.assert_close(found[:, : ids.shape[1]], expected)
    assert mask.sum(dim=1).tolist() == [5, 4, 2, 4]
    pooled, _ = build(tmp_path, enable_grad=train, pooled=True)(tiny.TEXTS, "cpu")
    ends = valid.sum(dim=1) - 1
    torch.testing.assert_close(pooled[:, 0], output.last_hidden_state[torch.arange(len(ends)), ends])


def test_a_frozen_one_is_in_no_checkpoint_and_a_trained_one_is(tmp_path: Path) -> None:
    network = save(tmp_path, False)
    frozen = build(tmp_path, enable_grad=False)
    assert not frozen.state_dict()
    frozen(["rock"], "cpu")
    assert not frozen.state_dict()
    count = sum(p.numel() for p in network.parameters()) - 16 * (40 - SIZES["max_length"])
    assert [n.count() for n in frozen.frozen_networks()] == [count]
    trained = build(tmp_path)
    assert sum(p.numel() for p in trained.encoder.parameters()) == count
    assert all(k.startswith("encoder.") for k in trained.state_dict())
    trained(["rock drum"], "cpu")[0].square().sum().backward()
    assert all(p.grad is not None for p in trained.encoder.parameters())


def test_a_frozen_one_keeps_its_type_in_a_model_of_another(tmp_path: Path) -> None:
    save(tmp_path, False)
    conditioner = build(tmp_path, enable_grad=False, project_out=True)
    conditioner(["rock"], "cpu")
    assert conditioner.to(torch.bfloat16)(["rock"], "cpu")[0].dtype == torch.bfloat16
    (network,) = conditioner.frozen_networks()
    assert {p.dtype for p in network.on("cpu").parameters()} == {torch.float32}


def test_other_sizes_are_refused_with_the_right_ones(tmp_path: Path) -> None:
    save(tmp_path, True)
    with pytest.raises(ValueError, match="are of a CLIP with layers 2, heads 2; give these values"):
        build(tmp_path, layers=3, heads=4)
    with pytest.raises(ValueError, match="max_length of at most 40"):
        build(tmp_path, max_length=41)
    save(tmp_path / "gelu", True, hidden_act="gelu")
    with pytest.raises(ValueError, match=r"the activation gelu and feed-forwards of 64; .* 'text_encoder'"):
        build(tmp_path / "gelu")
