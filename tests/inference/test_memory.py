"""The plan of generation."""

from __future__ import annotations

import pytest

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference.memory.generation import GenerationPlan, plan_generation
from stable_audio.shipped import shipped
from tests.config import examples


def planned(**settings: object) -> GenerationPlan:
    model = create_model_from_config(examples.cond(), device="meta")
    return plan_generation(model, **settings)  # type: ignore[arg-type]


def test_parts_in_turn_take_less_than_all_at_once() -> None:
    totals = planned().totals()
    assert totals["offload"] < totals["all parts on the device"]


def test_half_the_bits_are_half_the_weights_of_the_backbone_alone() -> None:
    whole, half = planned().weights, planned(dtype="float16").weights
    model = create_model_from_config(examples.cond())
    assert whole["backbone"] == sum(
        v.numel() * v.element_size() for v in [*model.backbone.parameters(), *model.backbone.buffers()]
    )
    # Integer buffers, such as offsets, keep their size.
    assert whole["backbone"] // 2 <= half["backbone"] < 0.51 * whole["backbone"]
    assert half["autoencoder"] == whole["autoencoder"]


def test_4_bits_take_less_weights_and_widen_them_at_work() -> None:
    pytest.importorskip("torchao")
    config = load_config(shipped("model")["quickstart/quickstart"])

    def plan(dtype: str) -> GenerationPlan:
        return plan_generation(create_model_from_config(config, device="meta"), dtype=dtype, seconds=0.5)

    half, held = plan("bfloat16"), plan("int4")
    assert held.weights["backbone"] < 0.5 * half.weights["backbone"]
    assert held.work["backbone"] > half.work["backbone"]


def test_work_grows_with_clips_and_guidance() -> None:
    one, four = planned().work["backbone"], planned(batch_size=4).work["backbone"]
    assert one < four
    assert planned(guided=False).work["backbone"] < one


@pytest.mark.parametrize(("spare", "first"), [(1, "all parts on the device"), (-1, "offload")])
def test_the_plainest_arrangement_that_fits_is_named(spare: int, first: str) -> None:
    totals = planned().totals()
    plan = planned(device_bytes=totals["all parts on the device"] + spare)
    assert plan.first_that_fits() in (first, "chunked decoding" if spare < 0 else first)
