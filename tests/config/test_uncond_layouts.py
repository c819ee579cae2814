"""`diffusion_uncond` has two layouts, which describe the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stable_audio.checkpoints.keys import sat_backbone_prefix
from stable_audio.config import ConfigError, load_config
from stable_audio.factory import create_model_from_config
from tests import tiny
from tests.config import examples

OF_DIFFUSION = ("type", "config", "diffusion_objective", "diffusion_process", "distribution_shift_options")


def in_section(data: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The layout with a `diffusion` section."""
    model = data["model"]
    section = {k: model.pop(k) for k in OF_DIFFUSION if k in model}
    return {**data, "model": {"diffusion": section, **model, **keys}}


@pytest.mark.parametrize("name", tiny.UNCOND_BACKBONES)
def test_both_layouts_give_the_same_model(name: str) -> None:
    def flat() -> dict[str, Any]:
        data = examples.uncond()
        data["model"] = {
            "type": name,
            "config": tiny.UNCOND_BACKBONES[name],
            "diffusion_objective": "rectified_flow",
            "distribution_shift_options": {"min_length": 4, "max_length": 64},
            "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 2}},
        }
        return data

    models = []
    for data in (flat(), in_section(flat(), io_channels=2)):
        torch.manual_seed(0)
        models.append(create_model_from_config(data))
    first, second = (m.state_dict() for m in models)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert {m.objective.name for m in models} == {"rectified_flow"}
    assert [m.dist_shift.max_length for m in models] == [64, 64]
    assert len({sat_backbone_prefix(load_config(d).as_dict()) for d in (flat(), in_section(flat()))}) == 1


def test_a_file_keeps_its_layout() -> None:
    data = in_section(examples.uncond(), io_channels=4)
    assert load_config(data).as_dict() == data
    assert load_config(load_config(data).as_dict()).as_dict() == data


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: d["model"].update(io_channels=5),
            "$.model.io_channels: found 5, but the backbone has 4 ($.model.diffusion.config.in_channels)",
        ),
        (
            lambda d: d["model"]["diffusion"]["config"].update(depht=2),
            "$.model.diffusion.config.depht: unknown key; did you mean 'depth'?",
        ),
        (lambda d: d["model"]["diffusion"].pop("type"), "$.model.diffusion.type: missing; give one of 'dit'"),
        (
            lambda d: d["model"].update(type="dit"),
            "$.model.type: unknown key; allowed: 'io_channels', 'pretransform', 'diffusion'",
        ),
        (
            lambda d: d["model"]["diffusion"].update(diffusion_objective="eps"),
            "$.model.diffusion.diffusion_objective: found \"eps\"; allowed: 'v', 'epsilon'",
        ),
        (lambda d: d.update(model=3), "$.model: found 3; expected an object"),
    ],
)
def test_mistakes_have_the_path_of_their_layout(
    damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    data = in_section(examples.uncond(), io_channels=4)
    damage(data)
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    assert str(caught.value.problems[0]).startswith(message), caught.value.problems


def test_channels_beside_the_backbone_are_checked_in_the_other_layout_too() -> None:
    data = examples.uncond()
    data["model"]["io_channels"] = 4
    assert create_model_from_config(data).io_channels == 4
    data["model"]["io_channels"] = 7
    with pytest.raises(ConfigError, match=r"the backbone has 4 \(\$\.model\.config\.in_channels\)"):
        load_config(data)


def test_a_backbone_that_needs_conditioning_is_refused() -> None:
    data = examples.uncond()
    config = {**tiny.UNCOND_BACKBONES["mlp"], "io_channels": 4, "global_cond_dim": 8}
    data["model"].update(type="mlp", config=config)
    with pytest.raises(ConfigError, match="the backbone needs 'global', which an unconditional model does"):
        load_config(data)
