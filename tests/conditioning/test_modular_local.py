"""Conditioning of single frames: joined ids, and ids with layers of their own, which may be absent."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stable_audio.conditioning import MultiConditioner, SlotWiring
from stable_audio.conditioning.scalars import NumberConditioner
from stable_audio.config import ConfigError, load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference.generation.audio_inputs import inpaints
from stable_audio.model import DiffusionModel
from stable_audio.types import Conditioning, Slot
from tests.config import examples


def model(**wiring: Any) -> DiffusionModel:
    data = examples.cond()
    data["model"]["conditioning"]["pre_encoded_keys"] = ["melody"]
    data["model"]["diffusion"].update(wiring)
    return create_model_from_config(data)


CLIP = {"prompt": "a bell", "seconds_start": 0, "seconds_total": 1}
MELODY = torch.arange(6.0).view(2, 3)
MODULAR = {"modular_local_cond_configs": [{"id": "melody", "dim": 2}]}


def test_a_batch_may_lack_an_id_with_layers_of_its_own() -> None:
    built = model(**MODULAR)
    assert built.conditioner is not None
    assert "melody" not in built.conditioner.ids()
    assert built.condition([CLIP]).modular_local is None
    assert built.conditioner.value_check().refusal(CLIP) is None
    assert built.conditioner.value_check().beyond(CLIP) == []
    cond = built.condition([{**CLIP, "melody": MELODY}, {**CLIP, "melody": 2 * MELODY}])
    assert cond.modular_local is not None
    assert torch.equal(cond.modular_local["melody"], torch.stack([MELODY, 2 * MELODY]))
    with pytest.raises(ValueError, match=r"'melody': the items .* one shape, found \[\(2, 2\), \(2, 3\)\]"):
        built.condition([{**CLIP, "melody": MELODY}, {**CLIP, "melody": MELODY[:, :2]}])
    with pytest.raises(ValueError, match=r"'melody': items \[1\] of 2 lack it"):
        built.condition([{**CLIP, "melody": MELODY}, CLIP])


def test_an_id_that_another_slot_reads_must_be_there() -> None:
    built = model(**MODULAR, local_add_cond_ids=["melody"], config=_with(local_add_cond_dim=2))
    with pytest.raises(ValueError, match="lacks \\['melody'\\]"):
        built.condition([CLIP])
    assert built.condition([{**CLIP, "melody": MELODY}]).local_add is not None


def _with(**keys: Any) -> dict[str, Any]:
    return {**examples.cond()["model"]["diffusion"]["config"], **keys}


def test_a_range_counts_only_where_there_is_a_value() -> None:
    bpm = NumberConditioner(output_dim=3, min_val=0, max_val=10)
    conditioner = MultiConditioner({"bpm": bpm}, optional_ids=["bpm"])
    assert conditioner([{}, {}], "cpu") == {}
    assert conditioner.value_check().beyond({"bpm": 99}) == ["bpm"]
    assert conditioner.value_check().refusal({"bpm": "fast"}) is not None


def test_channels_are_checked_where_only_metadata_know_them() -> None:
    with pytest.raises(ValueError, match=r"gives the channels \{'melody': 2\}.*\{'melody': \(1, 3, 4\)\}"):
        SlotWiring(modular_local_dims={"melody": 2})({"melody": (torch.zeros(1, 3, 4), None)})
    wiring = SlotWiring(local_add_ids=["a"], widths={Slot.LOCAL_ADD: 2})
    with pytest.raises(ValueError, match=r"takes 2 channels in the slot 'local_add', but 'a' \(1, 3, 4\)"):
        wiring({"a": (torch.zeros(1, 3, 4), None)})


def test_a_vector_is_the_same_in_every_frame() -> None:
    vector = torch.randn(2, 1, 3)
    wiring = SlotWiring(modular_local_dims={"v": 3}, vector_ids=["v"])
    found = wiring({"v": (vector, None)}).modular_local
    assert found is not None
    assert torch.equal(found["v"], vector[:, 0, :, None])


def test_tensors_by_id_follow_the_batch() -> None:
    cond = Conditioning(modular_local={"a": torch.arange(4.0).view(2, 1, 2)})
    both = Conditioning.cat([cond, cond.index(slice(1, 2))])
    assert both.modular_local is not None
    assert both.modular_local["a"].flatten().tolist() == [0, 1, 2, 3, 2, 3]
    assert cond.repeat(2).to(dtype=torch.float64).modular_local["a"].shape == (4, 1, 2)  # type: ignore[index]
    with pytest.raises(ValueError, match=r"modular_local ids cannot be joined: \[\['a'\], \[\]\]"):
        Conditioning.cat([cond, Conditioning()])


def test_only_some_backbones_read_them() -> None:
    data = examples.cond()
    config = {"io_channels": 4, "width": 4, "depth": 1, "global_cond_dim": 16}
    data["model"]["diffusion"].update(type="mlp", config=config, cross_attention_cond_ids=[], **MODULAR)
    with pytest.raises(ConfigError, match="'mlp' does not read modular_local_cond_configs"):
        load_config(data)


def test_inpainting_through_local_conditioning() -> None:
    data = examples.inpaint()
    diffusion = data["model"]["diffusion"]
    diffusion["local_add_cond_ids"] = diffusion.pop("input_concat_ids")
    diffusion["config"]["local_add_cond_dim"] = diffusion["config"].pop("input_concat_dim")
    built = create_model_from_config(data)
    assert inpaints(built)
    assert built.backbone.slot_widths[Slot.LOCAL_ADD] == 5
