"""Sizes, sections, batches and curves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.nn.checkpointing import Recomputation
from stable_audio.training.errors import TrainingError
from stable_audio.training.finetune import fitting
from stable_audio.training.finetune.comparing import loss_curves, sampling_of
from stable_audio.training.finetune.fitting import MemoryLayout, layouts
from stable_audio.training.finetune.keeping import check_kept
from stable_audio.training.finetune.request import FinetuneRequest
from stable_audio.training.finetune.section import step_keys, training_section
from stable_audio.training.finetune.sizing import default_rate, default_steps, rate_of, size_for
from stable_audio.training.finetune.ways import Way, shorter_clips, ways_that_fit
from stable_audio.training.memory_plan.choice import Choice
from stable_audio.training.memory_plan.plan import Planner, plan_training
from stable_audio.training.methods.diffusion import build_diffusion
from stable_audio.training.options import RunOptions
from tests.training.building import tiny_config
from tests.training.finetune.sounds import prompted_config


@pytest.mark.parametrize(
    ("pieces", "batch", "steps"),
    [(24, 24, 300), (30, 4, 1500), (31, 24, 300), (100, 8, 2500), (1e6, 24, 10_000), (1, 1, 300)],
)
def test_steps_are_200_passes_within_limits(pieces: float, batch: int, steps: int) -> None:
    assert default_steps(pieces, batch) == steps


def test_rates_follow_that_of_the_model() -> None:
    assert default_rate(None, adapter=True) == 1e-4
    assert default_rate(2e-3, adapter=True) == 2e-3
    assert default_rate(2e-4, adapter=True) == 4e-4
    assert default_rate(1e-6, adapter=True) == 1e-4
    assert default_rate(2e-3, adapter=False) == 1e-3
    optimizer = {"optimizer": {"type": "AdamW", "config": {"lr": 3e-4}}}
    assert rate_of({"optimizer_configs": {"diffusion": optimizer}}) == 3e-4
    assert rate_of({"learning_rate": 1e-5}) == 1e-5
    assert rate_of(None) is None


def test_what_is_asked_for_counts() -> None:
    size = size_for(
        30, pieces=30, base_rate=None, adapter=True, steps=40, batch=6, learning_rate=3e-4, rank=2
    )
    assert (size.steps, size.batch, size.learning_rate, size.warm_up, size.rank) == (40, 6, 3e-4, 2, 2)


def bare(**changes: Any) -> dict[str, Any]:
    config = prompted_config()
    config.pop("training")
    config["model"]["diffusion"].update(changes)
    return config


def test_a_published_checkpoint_gets_the_training_of_its_kind() -> None:
    flow, source = step_keys(bare())
    assert flow == {"cfg_dropout_prob": 0.1, "timestep_sampler": "trunc_logit_normal"}
    assert "Open Small" in source
    v, source = step_keys(bare(diffusion_objective="v"))
    assert v["timestep_sampler"] == "uniform"
    assert "Open 1.0" in source
    hides, source = step_keys(bare(mask_padding_attention=True) | {"model_type": "diffusion_cond_inpaint"})
    assert hides["mask_loss_weight"] == 1.0
    assert hides["silence_extension_scale_seconds"] == 4.0
    assert hides["ot_coupling"] is True
    assert hides["inpainting"]["mask_kwargs"]["mask_type_probabilities"] == [0.1, 0.8, 0.1]
    assert "Stable Audio 3" in source


def test_the_training_of_the_model_itself_is_kept_where_it_says_what_a_step_is() -> None:
    stored = bare() | {
        "training": {
            "learning_rate": 1e-3,
            "timestep_sampler": "log_snr",
            "timestep_sampler_options": {"mean_logsnr": -0.7},
            "p_one_shot": 0.05,
            "cache_latents": True,
            "use_ema": True,
            "max_steps": 2000,
        }
    }
    keys, source = step_keys(stored)
    assert keys == {
        "timestep_sampler": "log_snr",
        "timestep_sampler_options": {"mean_logsnr": -0.7},
        "p_one_shot": 0.05,
    }
    assert "of the model" in source
    # A method of its own, such as distillation, is not that of a fine-tune.
    stored["training"]["method"] = "adversarial"
    assert step_keys(stored)[0]["timestep_sampler"] == "trunc_logit_normal"


def section(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    size = size_for(4, pieces=4, base_rate=None, adapter=False, steps=20)
    settings: dict[str, Any] = {"optimizer": "AdamW", "micro_batch": 2, "adapter": None, "text_cache": None}
    settings |= {"gradient_checkpointing": False, "base_precision": None, "demo": None}
    return training_section(config, size, **{**settings, **changes})


def test_the_section_is_valid_and_trains() -> None:
    from stable_audio.factory import create_model_from_config

    config = bare()
    loaded = load_config(config | {"training": section(config)})
    module = build_diffusion(loaded, create_model_from_config(loaded), {})
    assert loaded.training.max_steps == 20
    assert module.options.log_loss_info
    assert module.ema is None


def config_for(micro: int, layout: MemoryLayout) -> Any:
    config = bare()
    training = section(config, gradient_checkpointing=layout.gradient_checkpointing)
    return load_config(config | {"training": training})


CPU, GPU = torch.device("cpu"), torch.device("cuda")
PLAIN, SELECTIVE, SAVED = layouts(adapter=None, device=CPU)


def test_layouts_are_tried_in_the_order_of_their_cost() -> None:
    def tried(adapter: str | None, device: torch.device) -> list[tuple[str | None, Recomputation]]:
        return [(o.base_precision, o.gradient_checkpointing) for o in layouts(adapter=adapter, device=device)]

    ways = (False, "elementwise", True)
    exact, halved = [(None, way) for way in ways], [("bf16", way) for way in ways]
    assert tried(None, GPU) == tried("lora-xs", GPU) == tried("lora-xs", CPU) == exact
    assert tried("lora", CPU) == [*exact, *halved]
    assert tried("lora", GPU) == halved


def bytes_of(layout: MemoryLayout, micro: int = 1, accumulation: int = 12) -> int:
    options = RunOptions(batch_size=micro, accum_batches=accumulation)
    return plan_training(config_for(micro, layout), options, device="cpu", search=False).total


def fitted(batch: int, usable: float) -> fitting.Fit:
    return fitting.fit(config_for, batch, [PLAIN, SELECTIVE, SAVED], available=usable / fitting.USABLE_SHARE)


@pytest.mark.slow
@pytest.mark.parametrize(("room", "micro"), [(12, 12), (50, 12), (11, 6), (5, 4), (1, 1)])
def test_the_largest_batch_that_divides_the_step_and_fits(room: int, micro: int) -> None:
    result = fitted(12, bytes_of(PLAIN, room, max(1, 12 // room)) + 1000)
    assert (result.micro_batch, result.accumulation, result.layout) == (micro, 12 // micro, PLAIN)
    assert result.total <= fitting.USABLE_SHARE * result.available


@pytest.mark.slow
def test_checkpointing_where_one_clip_does_not_fit_and_a_sentence_where_nothing_helps() -> None:
    plain, selective, saved = (bytes_of(layout, 1, 4) for layout in (PLAIN, SELECTIVE, SAVED))
    assert saved <= selective < plain
    assert fitted(4, (selective + plain) / 2).layout is SELECTIVE
    usable = (saved + plain) / 2 / fitting.USABLE_SHARE
    assert fitting.fit(config_for, 4, [PLAIN, SAVED], available=usable).layout is SAVED
    with pytest.raises(fitting.DoesNotFit, match=r"one clip needs .*gradients.* can be used"):
        fitted(4, saved / 2)


def ways(config: Any, room: float, **choice: Any) -> list[Way]:
    planner = Planner(config, device="cpu")
    plan = planner.plan(Choice(**choice), device_bytes=int(room))
    assert not plan.fits
    return list(ways_that_fit(config, plan, adapter_base="bf16", length_multiple=32))


@pytest.mark.slow
def test_each_way_to_fit_is_told_by_itself_and_fits() -> None:
    """Room for half of the gradients, and for half of the activations."""
    config = bare(config={**bare()["model"]["diffusion"]["config"], "embed_dim": 256, "num_heads": 4})
    config["sample_size"] = 16384
    config = load_config(config | {"training": section(config)})
    full: dict[str, Any] = {"average": "none", "accum_batches": 2, "checkpointing": True}
    full["precision"] = "bf16-mixed"
    planner = Planner(config, device="cpu")
    whole = planner.plan(Choice(**full))
    room = whole.total - whole.parts["gradients"] / 2
    first, *others = ways(config, room, **full)
    # Which one is cheapest depends on the optimizers that are installed.
    assert first.words in ("in model.json the optimizer AdamW8bit", "--precision bf16-true")
    assert first.plan.choice.rank is None
    assert others[0].words == "--adapter lora in place of --full"
    for way in (first, *others):
        assert way.plan.total <= room
    # Longer clips, of which some part must go.
    config = config.model_copy(update={"sample_size": 2**17})
    choice = Choice(rank=16, average="none")
    plan = Planner(config, device="cpu").plan(choice)
    room = int(plan.total - 0.6 * plan.parts["activations"])
    (shorter,) = shorter_clips(config, replace(plan, device_bytes=room), 32)
    assert shorter.words == "--seconds 8.192, shorter clips"
    assert shorter.plan.total <= room
    assert not list(shorter_clips(config, replace(plan, device_bytes=plan.parts["weights"]), 32))


def test_curves_are_means_over_equal_parts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = [f"{step},{step},{0.5 if step % 2 else ''}" for step in range(1, 9)]
    path.write_text("\n".join(["step,train/loss,model/loss_all_0.3", *rows]) + "\n")
    assert loss_curves(path, points=4) == {
        "all": [(1.0, 1.5), (3.0, 3.5), (5.0, 5.5), (7.0, 7.5)],
        "0.3 to 0.4": [(1.0, 0.5), (3.0, 0.5), (5.0, 0.5), (7.0, 0.5)],
    }
    assert loss_curves(tmp_path / "none.csv") == {}


def test_damaged_lines_of_metrics_cost_no_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,train/loss\n1,2\n2,inf\nx,3\n,5\n3,1e\n\0\0\0,1\nnan,7\n3,1e308\n4,4\n\xff,1\n4")
    assert loss_curves(path, points=1) == {"all": [(2.0, 3.0)]}


def test_prompts_to_keep_are_checked_before_anything_is_rendered(tmp_path: Path) -> None:
    config = tiny_config()
    entry = {"id": "prompt", "type": "words", "config": {"vocab_size": 64}}
    config["model"]["conditioning"]["configs"].append(entry)
    config["model"]["diffusion"]["cross_attention_cond_ids"].append("prompt")
    model = create_model_from_config(config, device="meta")
    prompts = tmp_path / "keep.jsonl"
    prompts.write_text('{"prompt": "a bell"}\n{"prompt": "half \\ud83c"}\n')
    check_kept(prompts, 1, model)
    with pytest.raises(ValueError, match=r"^\S+keep.jsonl, line 2: 'prompt' must be Unicode text, found"):
        check_kept(prompts, 2, model)


def test_sounds_are_sampled_as_the_demos_of_the_model() -> None:
    config = {"training": {"demo": {"demo_steps": 24, "demo_cfg_scales": [1.0, 1.5]}}}
    assert sampling_of(config) == {"cfg_scale": 1.5, "steps": 24}
    assert sampling_of(config, cfg_scale=3, steps=8) == {"cfg_scale": 3, "steps": 8}
    assert sampling_of({}) == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"adapter": "loha"}, "--adapter: found 'loha'"),
        ({"steps": 0}, "--steps must be above 0"),
        ({"adapter": None, "rank": 4}, "--rank belongs to an adapter"),
        ({"keep_clips": 0}, "--keep-clips must be at least 1"),
        ({"keep_clips": 5}, "--keep-clips counts the sounds of the prompts in --keep, which is not given"),
        ({"sampling_steps": 0}, "--sampling-steps must be at least 1"),
        ({"caption": " "}, "--caption is empty"),
        ({"num_workers": -1}, "--num-workers must be at least 0"),
        ({"cfg_scale": float("nan")}, "--cfg-scale must be a finite number"),
        ({"seconds": float("inf")}, "--seconds must be above 0 and finite"),
        ({"device_memory": -3.0 * 2**30}, "--device-memory must be above 0 and finite, found -3$"),
    ],
)
def test_a_request_out_of_range(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        FinetuneRequest(checkpoint="a", data="b", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"caption": "caf\udce9"},
        {"prompts": ("a", "\ud800")},
        *({k: "f\udce9"} for k in ("data", "out", "cache")),
    ],
)
def test_a_request_that_is_not_unicode(settings: dict[str, Any]) -> None:
    flag = next(iter(settings)).removesuffix("s")
    with pytest.raises(ValueError, match=rf"^--{flag}: found .* with (the byte E9|\\ud800), "):
        FinetuneRequest(**{"checkpoint": "a", "data": "b", **settings})
