"""What diffusers' layout cannot hold; no argument of a constructor is exported without a decision."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stable_audio.backbones.dit import DiT
from stable_audio.checkpoints import CheckpointError
from stable_audio.checkpoints.diffusers import tables, unsupported
from stable_audio.checkpoints.diffusers.arguments import (
    Held,
    Only,
    Unused,
    defaults_of,
    misfits,
    shown,
)
from stable_audio.checkpoints.diffusers.limits import refuse, unsupported_autoencoder, unsupported_backbone
from stable_audio.conditioning import CONDITIONERS
from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.scalars import NumberConditioner
from stable_audio.conditioning.t5 import T5Conditioner
from stable_audio.config import load_config
from stable_audio.config.sections.diffusion import ConditionerEntry, ConditioningSection, DiffusionSection
from stable_audio.config.sections.pretransform import (
    AutoencoderModel,
    AutoencoderPart,
    AutoencoderPretransformSection,
    DecoderPart,
)
from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.block import TransformerOptions
from stable_audio.nn.feedforward import FeedForwardOptions
from stable_audio.nn.norms import NormOptions
from stable_audio.options import keywords_of
from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.pretransforms.autoencoder_pretransform import AutoencoderPretransform
from stable_audio.pretransforms.bottlenecks.continuous import VAEBottleneck
from stable_audio.pretransforms.oobleck import OobleckDecoder, OobleckEncoder
from stable_audio.shipped import PACKAGE
from tests.checkpoints.tiny_pipeline import VARIANTS, config, save_text_encoder, variant

CONSTRUCTORS: list[tuple[Any, Mapping[str, Any], set[str]]] = [
    (DiT, tables.DIT, set()),
    (AttentionOptions, tables.ATTENTION, set()),
    (FeedForwardOptions, tables.FEED_FORWARD, set()),
    (NormOptions, tables.NORM, set()),
    (T5Conditioner, tables.T5, set()),
    (NumberConditioner, tables.NUMBER, set()),
    (OobleckEncoder, tables.OOBLECK_ENCODER, set()),
    (OobleckDecoder, tables.OOBLECK_DECODER, set()),
    (VAEBottleneck, tables.VAE, set()),
    # soft_clip stands in the decoder's section, the rate at the top of the file.
    (Autoencoder, tables.AUTOENCODER, {"soft_clip", "sample_rate"}),
]
SECTIONS: list[tuple[Any, set[str]]] = [
    (DiffusionSection, {*tables.WIRING, *tables.OBJECTIVE, "type", "config"}),
    (ConditioningSection, set(tables.CONDITIONING)),
    (ConditionerEntry, {"type", "config", "id"}),
    (AutoencoderPretransformSection, set(tables.PRETRANSFORM)),
    (AutoencoderModel, set(tables.AUTOENCODER)),
    (AutoencoderPart, set(tables.PART)),
    (DecoderPart, set(tables.DECODER_PART)),
]


@pytest.mark.parametrize(("target", "table", "elsewhere"), CONSTRUCTORS)
def test_every_argument_is_decided_on(target: Any, table: Mapping[str, Any], elsewhere: set[str]) -> None:
    assert set(keywords_of(target)) == {*table, *elsewhere}


@pytest.mark.parametrize(("section", "keys"), SECTIONS)
def test_every_key_of_the_sections_is_decided_on(section: Any, keys: set[str]) -> None:
    assert set(section.model_fields) == keys


def test_every_option_of_the_layers_and_the_pretransform_is_decided_on() -> None:
    assert set(keywords_of(TransformerOptions)) <= set(tables.DIT)
    made = set(inspect.signature(AutoencoderPretransform).parameters) - {"model"}
    assert made <= set(tables.PRETRANSFORM)
    assert set(inspect.signature(Conditioner).parameters) - {"dim"} <= set(tables.T5)


def test_an_argument_without_a_decision_is_refused() -> None:
    assert unsupported_backbone(config(new_option=3)) == [
        "model.diffusion.config.new_option is 3, which the layout does not have; leave it out"
    ]


def _arguments(settings: dict[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(table, what a config gives of it)."""
    model = settings["model"]
    diffusion, pretransform = model["diffusion"], model["pretransform"]
    options, spec = diffusion["config"], pretransform["config"]
    yield tables.DIT, options
    yield tables.ATTENTION, options.get("attn_kwargs", {})
    yield tables.FEED_FORWARD, options.get("ff_kwargs", {})
    yield tables.NORM, options.get("norm_kwargs", {})
    yield tables.WIRING, diffusion
    yield tables.OBJECTIVE, diffusion
    yield tables.CONDITIONING, model["conditioning"]
    for entry in model["conditioning"]["configs"]:
        yield tables.T5 if entry["type"] == "t5" else tables.NUMBER, entry["config"]
    yield tables.PRETRANSFORM, pretransform
    yield tables.AUTOENCODER, spec
    yield tables.OOBLECK_ENCODER, spec["encoder"]["config"]
    yield tables.OOBLECK_DECODER, spec["decoder"]["config"]
    yield tables.VAE, spec["bottleneck"].get("config", {})
    for part in ("encoder", "decoder", "bottleneck"):
        yield tables.DECODER_PART if part == "decoder" else tables.PART, spec[part]


def test_every_argument_that_may_vary_is_in_a_pipeline_that_is_compared(tmp_path: Path) -> None:
    """`test_diffusers` renders the variants with diffusers; they have each argument that is let through."""
    given: dict[int, set[str]] = {}
    seen: dict[int, Mapping[str, Any]] = {}
    for name in VARIANTS:
        for table, found in _arguments(variant(name, tmp_path / name)):
            seen[id(table)] = table
            given.setdefault(id(table), set()).update(found)
    # Another arithmetic, a place of weights, or what a call is told anyway, changes digits or nothing.
    beside = {"force_fp32", "model_half", "path", "padding", "sampling_defaults"}
    for key, table in seen.items():
        may_vary = {n for n, t in table.items() if isinstance(t, (Held, Unused))}
        assert may_vary - given[key] - beside == set()


def test_where_it_is_held_exists(tmp_path: Path) -> None:
    import json

    from stable_audio.checkpoints.diffusers import export_diffusers
    from stable_audio.factory import create_model_from_config

    settings = config(save_text_encoder(tmp_path / "t5"))
    out = export_diffusers(create_model_from_config(settings), tmp_path / "out", config=settings)
    names = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}
    every = {id(t): t for t, _ in _arguments(settings)}.values()
    for where in {t.where for table in every for t in table.values() if isinstance(t, Held)}:
        part, _, key = where.partition(".")
        written = json.loads((out / part / names.get(part, "config.json")).read_text())
        assert not key or key in written, where


TABLES = [table for _, table, _ in CONSTRUCTORS] + [
    tables.OBJECTIVE,
    tables.WIRING,
    tables.CONDITIONING,
    tables.PRETRANSFORM,
    tables.DECODER_PART,
]


@pytest.mark.parametrize("table", TABLES)
def test_fixed_arguments_are_refused_at_other_values(table: Mapping[str, Any]) -> None:
    for name, treatment in table.items():
        if isinstance(treatment, Only):
            assert list(treatment.misfits(f"at.{name}", "other", {})) == [
                f"at.{name} is 'other', only {shown(treatment.values[0])} fits"
            ]
            assert all(not list(treatment.misfits("at", v, {})) for v in treatment.values)


def _set(path: str, value: Any) -> Any:
    def change(settings: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node: Any = settings
        for step in parents:
            node = node[int(step)] if step.isdigit() else node[step]
        node[last] = value

    return change


DIFFUSION, CONFIGS = "model.diffusion.config", "model.conditioning.configs"
CODEC = "model.pretransform.config"
REFUSED: list[tuple[str, Any, str]] = [
    ("model_type", "diffusion_cond_inpaint", "model_type is 'diffusion_cond_inpaint', only"),
    ("model.diffusion.type", "DAU1d", "model.diffusion.type is 'DAU1d', only 'dit' fits"),
    (f"{DIFFUSION}.mask_cross_attention", True, "mask_cross_attention is true, only false fits"),
    (f"{DIFFUSION}.norm_type", "rms_norm", "norm_type is 'rms_norm', only 'layer_norm' fits"),
    (f"{DIFFUSION}.remove_norms", True, "remove_norms is true, only false fits"),
    (f"{DIFFUSION}.num_heads", 4, "a head has 32 features, only 64 or more in multiples of 4 fit"),
    (f"{DIFFUSION}.embed_dim", 132, "a head has 66 features, only 64 or more in multiples of 4 fit"),
    (f"{DIFFUSION}.timestep_features_type", "expo", "only 'learned' fits"),
    (f"{DIFFUSION}.timestep_features_logsnr", True, "timestep_features_logsnr is true, only false fits"),
    (f"{DIFFUSION}.patch_size", 2, "only 1 fits"),
    (f"{DIFFUSION}.global_cond_type", "adaLN", "only 'prepend' fits"),
    (f"{DIFFUSION}.cond_token_dim", 0, "only a width above 0 fits"),
    (f"{DIFFUSION}.final_cross_attn_ix", 0, "only -1 (all layers) fits"),
    (f"{DIFFUSION}.attn_kwargs", {"qk_norm": "ln"}, "attn_kwargs.qk_norm is 'ln', only 'none' fits"),
    (f"{DIFFUSION}.ff_kwargs", {"mult": 2}, "ff_kwargs.mult is 2, only 4 fits"),
    (f"{DIFFUSION}.norm_kwargs", {"eps": 1e-3}, "norm_kwargs.eps is 0.001, only 1e-05 fits"),
    ("model.diffusion.diffusion_objective", "rectified_flow", "only 'v' fits"),
    ("model.diffusion.diffusion_process", {"type": "ddpm"}, "only the process 'cosine' fits"),
    (
        "model.diffusion.global_cond_ids",
        ["seconds_total", "seconds_start"],
        "global_cond_ids is ['seconds_total', 'seconds_start'], only ['seconds_start', 'seconds_total'] fits",
    ),
    (
        "model.diffusion.cross_attention_cond_ids",
        ["prompt"],
        "cross_attention_cond_ids is ['prompt'], only ['prompt', 'seconds_start', 'seconds_total'], in any",
    ),
    ("model.diffusion.prepend_cond_ids", ["prompt"], "prepend_cond_ids is ['prompt'], only [] fits"),
    (f"{CONFIGS}.0.type", "clip_text", "configs[0].type of 'prompt' is 'clip_text', only 't5' fits"),
    (f"{CONFIGS}.1.type", "int", "configs[1].type of 'seconds_start' is 'int', only 'number' fits"),
    (f"{CONFIGS}.0.id", "text", "model.conditioning.configs lacks prompt"),
    (
        f"{CONFIGS}.2.config.max_val",
        9,
        "max_val of 'seconds_total' is 9, only 8, as of 'seconds_start', fits",
    ),
    (f"{CONFIGS}.2.config.min_val", -1, "min_val of 'seconds_total' is -1, only 0"),
    (f"{CONFIGS}.2.config.output_dim", 32, "output_dim of 'seconds_total' is 32, only 64"),
    (f"{CONFIGS}.1.config.fourier_features_type", "expo", "only 'learned' fits"),
    ("model.conditioning.pre_encoded_keys", ["prompt"], "pre_encoded_keys is ['prompt'], only [] fits"),
    ("model.conditioning", None, "needs the conditioners prompt, seconds_start, seconds_total"),
    ("model.pretransform", None, "a pipeline needs an autoencoder"),
    ("model.pretransform.type", "patched", "only 'autoencoder' fits"),
    ("model.pretransform.scale", 2.0, "scale is 2.0, only 1.0 fits"),
    (f"{CODEC}.latent_scale", 1.7, "latent_scale is 1.7, only 1.0 fits"),
    (f"{CODEC}.bottleneck.type", "tanh", "bottleneck.type is 'tanh', only 'vae' fits"),
    (f"{CODEC}.encoder.type", "seanet", "encoder.type is 'seanet', only 'oobleck' fits"),
    (f"{CODEC}.encoder.config.channels", 16, "only 8, the encoder's latent_dim, fits"),
    (f"{CODEC}.encoder.config.use_snake", False, "use_snake is false, only true fits"),
    (f"{CODEC}.decoder.config.strides", [4, 2], "strides is [4, 2], only [2, 4], as in the encoder, fits"),
    (f"{CODEC}.decoder.config.final_tanh", True, "final_tanh is true, only false fits"),
    (f"{CODEC}.decoder.soft_clip", True, "decoder.soft_clip is true, only false fits"),
    (f"{CODEC}.in_channels", 1, "in_channels is 1, only 2, as io_channels, fits"),
]


@pytest.mark.parametrize(("path", "value", "reason"), REFUSED)
def test_refusals(path: str, value: Any, reason: str) -> None:
    settings = config()
    assert unsupported(settings) == []
    _set(path, value)(settings)
    with pytest.raises(CheckpointError) as refusal:
        refuse(unsupported(settings))
    assert reason in str(refusal.value)


def test_an_extra_conditioner_is_refused() -> None:
    settings = config()
    extra = {"id": "tempo", "type": "int", "config": {"max_val": 200}}
    settings["model"]["conditioning"]["configs"].append(extra)
    assert unsupported(settings) == [
        "model.conditioning.configs[3].id is 'tempo', only prompt, seconds_start, seconds_total fit"
    ]


def test_a_projection_between_equal_widths_is_refused(tmp_path: Path) -> None:
    """The layout projects text only where it must; ours may do so always."""
    settings = config(save_text_encoder(tmp_path / "t5", 64))
    text = settings["model"]["conditioning"]["configs"][0]["config"]
    assert unsupported(settings) == []
    text["project_out"] = True
    assert [r.split(",")[0] for r in unsupported(settings)] == [
        "model.conditioning.configs[0].config.project_out is true"
    ]


def test_an_autoencoder_alone_may_have_any_scale() -> None:
    spec = {**config()["model"]["pretransform"]["config"], "latent_scale": 1.7}
    assert unsupported_autoencoder(spec) == []


def test_defaults_count() -> None:
    """A part that says nothing has what its constructor says: ELU and a final tanh."""
    spec = config()["model"]["pretransform"]["config"]
    for part in ("encoder", "decoder"):
        del spec[part]["config"]["use_snake"]
    del spec["decoder"]["config"]["final_tanh"]
    assert [r.split(",")[0] for r in unsupported_autoencoder(spec)] == [
        "model.encoder.config.use_snake is false",
        "model.decoder.config.use_snake is false",
        "model.decoder.config.final_tanh is true",
    ]
    first = next(misfits(tables.DIT, {}, "at", defaults=defaults_of(DiT)))
    assert first.startswith("at.cond_token_dim is 0")


def test_a_published_layout_fits() -> None:
    path = PACKAGE.parent / "model_configs" / "stable_audio" / "stable_audio_open_1_0.json"
    assert unsupported(load_config(path).as_dict()) == []
    small = load_config(path.with_name("stable_audio_open_small.json")).as_dict()
    assert any("cross_attention_cond_ids" in reason for reason in unsupported(small))


def test_the_conditioners_of_the_layout_are_ours() -> None:
    from stable_audio.checkpoints.diffusers import limits

    assert {(kind, target) for kind, target, _ in limits.CONDITIONERS.values()} == {
        ("t5", CONDITIONERS["t5"]),
        ("number", CONDITIONERS["number"]),
    }
