"""Rules between keys: each one is broken once, and only it complains."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from stable_audio.config import ConfigError, load_config
from stable_audio.config.rules import HINTS, RULES
from tests.config import examples

Damage = Callable[[dict[str, Any]], Any]


def _unet(data: dict[str, Any], mechanisms: dict[str, Any]) -> None:
    data["model"]["diffusion"].update(
        type="unet",
        config={
            "io_channels": 4,
            "channels": 4,
            "multipliers": [1, 2],
            "groups": 2,
            "attention": [False, True],
            "attention_options": {"heads": 2, "groups": 2},
            "cross_attn": {"dim": 8},
            "mechanisms": mechanisms,
        },
    )


BROKEN: dict[str, list[tuple[Callable[[], dict[str, Any]], Damage, str]]] = {
    "guard": [
        (
            examples.cond,
            lambda d: d["training"].update(guard={"skips": 200}),
            "$.training.guard.skips: found 200, above within, which is 100, so that the run never goes back",
        )
    ],
    "gradient_release": [
        (
            examples.cond,
            lambda d: d["training"].update(gradient_release=True, gradient_clip_val=1.0),
            "$.training.gradient_release: weights step before the norm of the whole gradient is known",
        )
    ],
    "adapters": [
        (
            examples.cond,
            lambda d: d["training"].update(base_precision="bf16"),
            "$.training.base_precision: has no effect without lora_config",
        ),
        (
            examples.cond,
            lambda d: d["training"].update(lora_config={"rank": 2}, trainable={"include": ["backbone"]}),
            "$.training.trainable.include: lora_config says what is trained",
        ),
    ],
    "slot_ids": [
        (
            examples.cond,
            lambda d: d["model"]["diffusion"]["cross_attention_cond_ids"].append("genre"),
            "$.model.diffusion.cross_attention_cond_ids[2]: 'genre' has no conditioner",
        ),
        (
            examples.inpaint,
            lambda d: d.update(model_type="diffusion_cond") or d["training"].pop("inpainting"),
            "$.model.diffusion.input_concat_ids[0]: 'inpaint_mask' has no conditioner",
        ),
    ],
    "conditioner_ids": [
        (
            examples.cond,
            lambda d: d["model"]["conditioning"]["configs"].append(d["model"]["conditioning"]["configs"][1]),
            "$.model.conditioning.configs[3].id: 'seconds_start' is used twice",
        )
    ],
    "objective_options": [
        (
            examples.cond,
            lambda d: d["model"]["diffusion"].update(diffusion_objective_options={"steps": 3}),
            "$.model.diffusion.diffusion_objective_options.steps: unknown key; no key is allowed here",
        )
    ],
    "process_steps": [
        (
            examples.uncond,
            lambda d: _steps(d, diffusion_process={"type": "ddpm", "config": {"steps": 500}}),
            "$.model.config.time.steps: found 1000, but the process has 500 steps",
        )
    ],
    "sampling": [
        (
            examples.cond,
            lambda d: d["model"]["diffusion"].update(sampling_defaults={"sampler": "eulr"}),
            "$.model.diffusion.sampling_defaults: unknown sampler 'eulr'; did you mean 'euler'",
        ),
        (
            examples.cond,
            lambda d: d["training"]["demo"].update(demo_sampling={"schedule": [1.0, 0.5]}),
            "$.training.demo.demo_sampling: a schedule as a list must fall to 0",
        ),
    ],
    "guides": [
        (
            examples.cond,
            lambda d: d["training"]["demo"].update(demo_guide="weak.ckpt"),
            "$.training.demo.demo_guide: it has no effect without guide_scale",
        )
    ],
    "demo_steps": [
        (
            examples.uncond,
            lambda d: _steps(d) or d["training"]["demo"].update(demo_steps=1001),
            "$.training.demo.demo_steps: found 1001, but the process has 1000 steps",
        )
    ],
    "process_shift": [
        (
            examples.uncond,
            lambda d: _steps(d, distribution_shift_options={}),
            "$.model.distribution_shift_options: only continuous processes can be shifted",
        )
    ],
    "one_shot": [
        (
            examples.uncond,
            lambda d: (
                d["model"].update(diffusion_objective="epsilon") or d["training"].update(p_one_shot=0.2)
            ),
            "$.training.p_one_shot: found 0.2, but at t = 1 the target of 'epsilon' is the input",
        )
    ],
    "default_keys": [
        (
            examples.cond,
            lambda d: d["model"]["conditioning"]["default_keys"].update(second_start="x"),
            "$.model.conditioning.default_keys.second_start: 'second_start' is no conditioner id; did you",
        )
    ],
    "slots_served": [
        (
            examples.cond,
            lambda d: d["model"]["diffusion"].update(prepend_cond_ids=["prompt"]),
            "$.model.diffusion.prepend_cond_ids: backbone 'dit' as configured does not read the slot",
        )
    ],
    "mechanisms": [
        (
            examples.cond,
            lambda d: _unet(d, {"seconds_total": {"mechanism": "sum", "dim": 16}}),
            "$.model.diffusion.config.mechanisms: found the ids 'seconds_total', but global_cond_ids is "
            "'seconds_start', 'seconds_total': give the same, in order",
        ),
        (
            examples.cond,
            lambda d: _unet(
                d,
                {
                    "time": {"mechanism": "adaptive"},
                    "seconds_start": {"mechanism": "cross_attention", "merge": "concat", "dim": 7},
                    "seconds_total": {"mechanism": "concat", "dim": 9},
                },
            ),
            "$.model.diffusion.config.mechanisms.seconds_start.dim: found 7, but the conditioner "
            "'seconds_start' gives 8 features",
        ),
    ],
    "slot_layouts": [
        (
            examples.cond,
            lambda d: d["model"]["conditioning"]["configs"][0].update(
                type="pretransform", config={"sample_rate": 16000, "use_model_pretransform": True}
            ),
            "$.model.diffusion.cross_attention_cond_ids[0]: 'prompt' gives frames for the slot "
            "'input_concat': list it there",
        ),
        (
            examples.cond,
            lambda d: d["model"]["diffusion"].update(global_cond_ids=["seconds_start", "prompt"]),
            "$.model.diffusion.global_cond_ids[1]: 'prompt' gives a sequence of tokens, which the slot "
            "'global' cannot read: list it in cross_attention_cond_ids",
        ),
        (
            examples.inpaint,
            lambda d: (
                d["model"]["diffusion"]["input_concat_ids"].append("prompt"),
                d["model"]["diffusion"]["config"].update(input_concat_dim=13),
            ),
            "$.model.diffusion.input_concat_ids[2]: 'prompt' gives a sequence of tokens, which the slot "
            "'input_concat' cannot read",
        ),
    ],
    "modular_widths": [
        (
            examples.cond,
            lambda d: d["model"]["diffusion"].update(
                modular_local_cond_configs=[{"id": "seconds_total", "dim": 5}]
            ),
            "$.model.diffusion.modular_local_cond_configs[0].dim: found 5, but 'seconds_total' gives 8 "
            "channels: set 8",
        ),
        (
            examples.cond,
            lambda d: d["model"]["diffusion"].update(
                modular_local_cond_configs=[{"id": "prompt", "dim": 8}, {"id": "prompt", "dim": 8}]
            ),
            "$.model.diffusion.modular_local_cond_configs[1].id: 'prompt' is listed twice",
        ),
        (
            examples.cond,
            lambda d: d["model"]["diffusion"].update(modular_local_cond_configs=[{"id": "prompt", "dim": 8}]),
            "$.model.diffusion.modular_local_cond_configs[0].id: 'prompt' gives a sequence of tokens",
        ),
    ],
    "padding_mask": [
        (
            examples.cond,
            lambda d: d["model"]["diffusion"].update(
                type="mlp",
                mask_padding_attention=True,
                config={"io_channels": 4, "width": 4, "depth": 1, "global_cond_dim": 16},
                cross_attention_cond_ids=[],
            ),
            "$.model.diffusion.mask_padding_attention: backbone 'mlp' as configured cannot hide padding",
        ),
        (
            examples.cond,
            lambda d: (
                d["training"].update(mask_padding_attention=True)
                or d["model"]["diffusion"].update(
                    type="mlp",
                    config={"io_channels": 4, "width": 4, "depth": 1, "global_cond_dim": 16},
                    cross_attention_cond_ids=[],
                )
            ),
            "$.training.mask_padding_attention: backbone 'mlp' as configured cannot hide padding",
        ),
    ],
    "slot_widths": [
        (
            examples.inpaint,
            lambda d: d["model"]["diffusion"].update(
                local_add_cond_ids=d["model"]["diffusion"].pop("input_concat_ids"),
                config={
                    **{k: v for k, v in d["model"]["diffusion"]["config"].items() if k != "input_concat_dim"},
                    "local_add_cond_dim": 4,
                },
            ),
            "$.model.diffusion.local_add_cond_ids: inpaint_mask 1, inpaint_masked_input 4 sum to 5, but the "
            "backbone takes 4 in 'local_add'; set $.model.diffusion.config.local_add_cond_dim: 5",
        ),
        (
            examples.cond,
            lambda d: d["model"]["diffusion"]["config"].update(global_cond_dim=15),
            "$.model.diffusion.global_cond_ids: seconds_start 8, seconds_total 8 sum to 16, but the backbone "
            "takes 15 in 'global'; set $.model.diffusion.config.global_cond_dim: 16, or make",
        ),
        (
            examples.cond,
            lambda d: d["model"]["conditioning"]["configs"][0]["config"].update(output_dim=12),
            "$.model.diffusion.cross_attention_cond_ids: the backbone takes tokens 8 wide in 'cross_attn', "
            "but found prompt 12; give those conditioners output_dim 8",
        ),
        (
            examples.cond,
            lambda d: d["model"]["diffusion"]["config"].update(cond_token_dim=12),
            "$.model.diffusion.cross_attention_cond_ids: the backbone takes tokens 12 wide in 'cross_attn', "
            "but found prompt 8, seconds_total 8; set $.model.diffusion.config.cond_token_dim: 8",
        ),
        (
            examples.inpaint,
            lambda d: d["model"]["diffusion"]["config"].update(input_concat_dim=4),
            "$.model.diffusion.input_concat_ids: inpaint_mask 1, inpaint_masked_input 4 sum to 5, "
            "but the backbone takes 4 in 'input_concat'; set $.model.diffusion.config.input_concat_dim: 5",
        ),
    ],
    "channels": [
        (
            examples.cond,
            lambda d: d["model"]["diffusion"]["config"].update(io_channels=6),
            "$.model.io_channels: found 4, but the backbone has 6",
        ),
        (
            examples.uncond,
            lambda d: d["model"]["pretransform"]["config"].update(patch_size=8),
            "$.model.config: found 4 channels, but the pretransform encodes to 8",
        ),
    ],
    "latent_axes": [
        (
            examples.cond,
            lambda d: d["model"].update(
                pretransform={
                    "type": "spectrogram",
                    "config": {"channels": 2, "n_fft": 62, "hop_length": 8, "layout": "2d"},
                }
            ),
            "$.model.pretransform: its latents have 32 rows, but the backbone takes latents without",
        )
    ],
    "sample_size": [
        (
            examples.cond,
            lambda d: d.update(sample_size=7),
            "$.sample_size: found 7, which is less than 8 = 8 (samples per latent frame) x 1 (backbone); "
            "use a multiple of 8",
        ),
        (
            examples.cond,
            lambda d: d["model"]["diffusion"]["config"].update(patch_size=256),
            "$.sample_size: found 1024, which is less than 2048",
        ),
        (
            examples.autoencoder,
            lambda d: d.update(sample_size=5),
            "$.sample_size: found 5, which is less than downsampling_ratio 8; use a multiple of 8",
        ),
    ],
    "loss_types": [
        (
            examples.autoencoder,
            lambda d: d["training"]["loss_configs"]["spectral"].update(type="mrsftf"),
            "$.training.loss_configs.spectral.type: found \"mrsftf\"; did you mean 'mrstft'?",
        )
    ],
    "optimizer": [
        (
            examples.cond,
            lambda d: d["training"].pop("optimizer_configs"),
            "$.training.learning_rate: missing; give learning_rate or optimizer_configs",
        )
    ],
    "optimizer_options": [
        (
            examples.cond,
            lambda d: _optimizer(d)["optimizer"]["config"].update(bettas=[0.9, 0.99]),
            "$.training.optimizer_configs.diffusion.optimizer.config.bettas: unknown option of AdamW",
        ),
        (
            examples.cond,
            lambda d: _optimizer(d)["optimizer"]["config"].update(lr=-1),
            "$.training.optimizer_configs.diffusion.optimizer.config: AdamW refuses these options: Invalid",
        ),
        (
            examples.cond,
            lambda d: _optimizer(d)["scheduler"].update(type="InversLR"),
            '$.training.optimizer_configs.diffusion.scheduler.type: found "InversLR"; did you mean',
        ),
        (
            examples.cond,
            lambda d: _optimizer(d)["scheduler"]["config"].update(warmup=2),
            "$.training.optimizer_configs.diffusion.scheduler.config: InverseLR refuses these options",
        ),
    ],
    "timestep_options": [
        (
            examples.cond,
            lambda d: d["training"].update(timestep_sampler="uniform"),
            "$.training.timestep_sampler_options.mean_logsnr: unknown key; no key is allowed here",
        ),
        (
            examples.cond,
            lambda d: d["training"].update(timestep_sampler_options={"std_logsnr": 0}),
            "$.training.timestep_sampler_options: std_logsnr must be above 0",
        ),
    ],
    "main_loss": [
        (
            examples.cond,
            lambda d: d["training"].update(loss_configs={"diffusion": {"type": "spectral"}}),
            "$.training.loss_configs.diffusion.type: found 'spectral'; the main term must be one of 'mse'",
        )
    ],
    "average": [
        (
            examples.cond,
            lambda d: d["training"].update(ema={"min_value": 0.9, "beta": 0.5}),
            "$.training.ema.min_value: found 0.9, above beta, the maximum decay, which is 0.5",
        )
    ],
    "inpainting": [
        (
            examples.inpaint,
            lambda d: d["training"]["inpainting"]["mask_kwargs"].update(
                mask_type_probabilities=[0.5, 0.5, 0.5]
            ),
            "$.training.inpainting.mask_kwargs.mask_type_probabilities: found [0.5, 0.5, 0.5], which sum",
        ),
    ],
    "teacher": [
        (
            examples.autoencoder,
            lambda d: d["training"].update(teacher_model=examples.autoencoder()),
            "$.training.teacher_model_ckpt: missing; teacher_model needs its weights",
        )
    ],
    "demos": [
        (
            examples.cond,
            lambda d: d["training"]["demo"].update(num_demos=4),
            "$.training.demo.num_demos: found 4, but demo_cond has 2 entries",
        ),
        (
            examples.cond,
            lambda d: d["training"]["demo"]["demo_cond"][1].pop("prompt"),
            "$.training.demo.demo_cond[1]: lacks 'prompt'",
        ),
    ],
    "inpaint_demos": [
        (
            examples.cond,
            lambda d: d["training"]["demo"].update(inpaint_demos=2),
            "$.training.demo.inpaint_demos: only model_type 'diffusion_cond_inpaint'",
        ),
    ],
    "padding_weight": [
        (
            examples.cond,
            lambda d: d["training"].update(mask_padding=True, mask_loss_weight=0.5),
            "$.training.mask_loss_weight: mask_padding says already",
        ),
        (
            examples.cond,
            lambda d: d["training"].update(silence_extension_scale_seconds=4.0),
            "$.training.silence_extension_scale_seconds: needs a model that hides padding",
        ),
    ],
    "encoder_channels": [
        (
            examples.autoencoder,
            lambda d: (
                d["model"]["encoder"]["config"].update(in_channels=1) or d["model"].update(in_channels=1)
            ),
            "$.model.in_channels: found 1, but out_channels is 2: encoder and decoder must have the "
            "same channels; training.force_input_mono",
        )
    ],
    "discriminator_channels": [
        (
            examples.autoencoder,
            lambda d: _losses(d, {"discriminator": {"type": "oobleck", "config": {"in_channels": 1}}}),
            "$.training.loss_configs.discriminator.config.in_channels: found 1, but the autoencoder "
            "decodes to 2",
        )
    ],
    "bottleneck_terms": [
        (
            examples.autoencoder,
            lambda d: _losses(d, {"spectral": {}, "bottleneck": {"weights": {"mmd": 1.0}}}),
            "$.training.loss_configs.bottleneck.weights.mmd: unknown term of the bottleneck; allowed: 'kl'",
        )
    ],
    "losses": [
        (
            examples.autoencoder,
            lambda d: _losses(d, {"time": {}, "bottleneck": {"weights": {"kl": 1.0}}}),
            "$.training.loss_configs: nothing compares audio with its reconstruction",
        ),
        (
            examples.autoencoder,
            lambda d: _losses(d, {"time": {"weights": {"l1": 0.0}}, "spectral": {"weights": {"mrstft": 0}}}),
            "$.training.loss_configs: nothing compares audio with its reconstruction",
        ),
    ],
    "pretransform_losses": [
        (
            examples.autoencoder,
            lambda d: _losses(d, {"spectral": {}, "pretransform": {"weights": {"l1": 1.0}}}),
            "$.training.loss_configs.pretransform: it compares values of the autoencoder's pretransform",
        )
    ],
    "windows": [
        (
            examples.autoencoder,
            lambda d: _losses(d, {"mrmel": {"config": {"n_mels": [4, 8], "window_lengths": [64, 1 << 24]}}}),
            "$.training.loss_configs.mrmel.config.window_lengths: found [16777216], too long for clips of",
        ),
        (
            examples.autoencoder,
            lambda d: _losses(
                d,
                {
                    "discriminator": {
                        "type": "encodec",
                        "config": {"n_ffts": [1 << 24, 64, 64], "win_lengths": [1024, 64, 64]},
                    }
                },
            ),
            "$.training.loss_configs.discriminator.config.n_ffts: found [16777216]",
        ),
    ],
}


def _losses(data: dict[str, Any], losses: dict[str, Any]) -> None:
    data["training"] = {"learning_rate": 1e-4, "loss_configs": losses}


def _optimizer(data: dict[str, Any]) -> Any:
    return data["training"]["optimizer_configs"]["diffusion"]


def _steps(data: dict[str, Any], **keys: Any) -> None:
    config = {"io_channels": 4, "width": 8, "depth": 1, "time": {"steps": 1000}}
    defaults = {"diffusion_objective": "epsilon", "diffusion_process": {"type": "ddpm"}}
    data["model"].update({"type": "mlp", "config": config, **defaults, **keys})


CASES = [(name, *case) for name, cases in BROKEN.items() for case in cases]


@pytest.mark.parametrize(("rule", "make", "damage", "message"), CASES, ids=[c[3][:50] for c in CASES])
def test_a_broken_rule_is_the_only_complaint(
    rule: str, make: Callable[[], dict[str, Any]], damage: Damage, message: str
) -> None:
    data = make()
    damage(data)
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    found = [str(p) for p in caught.value.problems]
    assert any(f.startswith(message) for f in found), found
    with_skips = _problems(data, rule)
    assert not any(f.startswith(message) for f in with_skips)
    if rule != "slot_ids":  # ids without a conditioner may leave other rules nothing to go by
        assert with_skips == []


def _problems(data: dict[str, Any], skipped: str) -> list[str]:
    try:
        load_config(data, skip_rules=(skipped,))
    except ConfigError as error:
        return [str(p) for p in error.problems]
    return []


def test_every_rule_is_broken_above() -> None:
    # Which slots a backbone cannot do without is up to it: see the next test.
    assert set(BROKEN) == set(RULES) - {"slots_filled"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"diffusion_objective": "rectified_flow", "diffusion_process": {"type": "ddpm"}},
            "$.model.diffusion_process: 'rectified_flow' is defined for processes of the space flow",
        ),
        (
            {
                "diffusion_objective": "epsilon",
                "diffusion_process": {"type": "ddpm", "config": {"zero_terminal_snr": True}},
            },
            "$.model.diffusion_process: zero_terminal_snr ends in pure noise, where",
        ),
        (
            {"diffusion_process": {"type": "ddpm", "config": {"beta_start": 0.5}}},
            "$.model.diffusion_process: 0 < beta_start <= beta_end < 1 is needed, found beta_start 0.5",
        ),
        (
            {"diffusion_process": {"type": "ddpm", "config": {"beta_schedule": "scaled"}}},
            '$.model.diffusion_process.config.beta_schedule: found "scaled"',
        ),
    ],
)
def test_processes_and_objectives_that_do_not_fit_are_told_at_load(keys: Any, message: str) -> None:
    data = examples.uncond()
    data["model"].update(keys)
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    assert [str(p) for p in caught.value.problems if str(p).startswith(message)], caught.value.problems


def test_a_slot_that_the_backbone_needs_must_be_filled() -> None:
    data = examples.cond()
    data["model"]["diffusion"].update(
        type="adp_cfg_1d",
        global_cond_ids=[],
        cross_attention_cond_ids=[],
        config={
            "in_channels": 4,
            "channels": 32,
            "multipliers": [1, 1],
            "factors": [2],
            "num_blocks": [1],
            "attentions": [1, 1],
            "attention_heads": 2,
            "resnet_groups": 2,
            "context_embedding_features": 8,
            "context_embedding_max_length": 16,
        },
    )
    with pytest.raises(
        ConfigError, match=r"cross_attention_cond_ids: the backbone needs the slot 'cross_attn'"
    ):
        load_config(data)


def test_ids_that_come_as_tensors_need_no_conditioner() -> None:
    data = examples.cond()
    data["model"]["diffusion"]["cross_attention_cond_ids"].append("melody")
    assert load_config(data, extra_ids=("melody",))
    data["model"]["conditioning"]["pre_encoded_keys"] = ["melody"]
    assert load_config(data).model.conditioning.pre_encoded_keys == ["melody"]


@pytest.mark.parametrize(
    ("hint", "damage", "message"),
    [
        ("audio_channels", lambda d: d.update(audio_channels=1), "$.audio_channels: found 1, but the model"),
        (
            "unused_conditioners",
            lambda d: d["model"]["diffusion"].update(cross_attention_cond_ids=["seconds_total"]),
            "$.model.conditioning.configs[0]: 'prompt' is wired to no slot",
        ),
        (
            "unused_local_layers",
            lambda d: d["model"]["diffusion"]["config"].update(local_add_cond_dim=4),
            "$.model.diffusion.config.local_add_cond_dim: found 4, but local_add_cond_ids is empty",
        ),
        (
            "unused_local_layers",
            lambda d: d["model"]["diffusion"].update(modular_local_cond_configs=[{"id": "promt", "dim": 4}]),
            "'promt' has no conditioner in model.conditioning.configs, so it adds nothing; did you mean "
            "'prompt'?",
        ),
        (
            "one_learning_rate",
            lambda d: d["training"].update(learning_rate=1e-4),
            "$.training.learning_rate: not",
        ),
    ],
)
def test_hints_are_warnings(
    hint: str, damage: Damage, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert hint in HINTS
    load_config(examples.cond())
    assert caplog.text == ""
    data = examples.cond()
    damage(data)
    with caplog.at_level(logging.WARNING):
        load_config(data)
    assert message in caplog.text


def test_a_file_of_an_encoder_that_is_absent_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def warnings(kind: str, **options: Any) -> list[str]:
        data = examples.cond()
        for entry in data["model"]["conditioning"]["configs"]:
            if entry["id"] == "prompt":
                entry.update(type=kind, config=options)
        caplog.clear()
        load_config(data)
        return [message for message in caplog.messages if "does not exist" in message]

    clap = {"use_text_features": True, "clap_ckpt_path": "/nowhere/clap.pt"}
    (warning,) = warnings("clap_text", **clap)
    assert "clap_ckpt_path: /nowhere/clap.pt does not exist; the model can be built without it" in warning
    assert not warnings("clap_text", **clap | {"clap_ckpt_path": "laion/clap-htsat-fused"})
    assert not warnings("clap_text", **clap, finetune=True)
    assert len(warnings("t5gemma", model_path="./nowhere")) == 1


@pytest.mark.parametrize("model_type", ["diffusion_cond_inpant", None, [], "lm"])
def test_a_wrong_model_type_is_the_only_complaint_about_an_inpainting_file(model_type: Any) -> None:
    data = {**examples.inpaint(), "model_type": model_type}
    with pytest.raises(ConfigError) as refused:
        load_config(data)
    assert [p.path for p in refused.value.problems] == ["$.model_type"]


@pytest.mark.parametrize("wrong", [{"id": "prompt"}, "prompt", 3, None])
@pytest.mark.parametrize("key", ["configs", "pre_encoded_keys"])
def test_ids_that_cannot_be_read_are_one_complaint(key: str, wrong: Any) -> None:
    data = examples.cond()
    data["model"]["conditioning"][key] = wrong
    if key == "pre_encoded_keys":
        data["model"]["conditioning"]["configs"] = []
    data["model"]["conditioning"]["default_keys"] = {"prompt": "caption"}
    with pytest.raises(ConfigError) as refused:
        load_config(data)
    (problem,) = refused.value.problems
    assert problem.path == f"$.model.conditioning.{key}"
    assert "expected a list" in problem.message


def test_conditioning_that_is_no_object_is_one_complaint() -> None:
    data = examples.cond()
    data["model"]["conditioning"] = [1]
    with pytest.raises(ConfigError) as refused:
        load_config(data)
    assert [problem.path for problem in refused.value.problems] == ["$.model.conditioning"]
