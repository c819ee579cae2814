"""Every table of keys in docs/ names the keys that the code reads, with their defaults."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from stable_audio import generate
from stable_audio.backbones import BACKBONES
from stable_audio.conditioning import CONDITIONERS
from stable_audio.config.schemas.leaf import leaf_model
from stable_audio.config.sections.autoencoder import (
    AutoencoderDemoSection,
    AutoencoderLosses,
    AutoencoderTrainingSection,
    DiffusionAutoencoderDemoSection,
    DiffusionAutoencoderTrainingSection,
    ValidationMetrics,
)
from stable_audio.config.sections.diffusion import (
    ConditioningSection,
    CondModel,
    DiffusionSection,
    UncondModelSection,
)
from stable_audio.config.sections.sounds import SOUND_CONFIGS
from stable_audio.config.sections.top import ModelConfig
from stable_audio.config.sections.training import CondDemoSection, CondTraining, EmaSection, MaskSection
from stable_audio.data import DATASETS, RUNTIME_KEYS
from stable_audio.data.audio_dir import AudioDirEntry
from stable_audio.data.pre_encoded import PreEncodedEntry
from stable_audio.data.wds import WdsEntry
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.processes import PROCESSES
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.shift import DistributionShift
from stable_audio.diffusion.spaces import SPACES
from stable_audio.inference import Sampling
from stable_audio.options import keywords_of
from stable_audio.pretransforms import BOTTLENECKS, DECODERS, ENCODERS, PRETRANSFORMS
from stable_audio.pretransforms.discriminators import DISCRIMINATORS
from tests.docs.tables import code, names, page, section, table, tables

Defaults = dict[str, Any]


def of_call(function: Callable[..., Any], *left_out: str) -> Defaults:
    return {name: k.default for name, k in keywords_of(function).items() if name not in left_out}


def of_entry(entry: Any) -> Defaults:
    return {f.name: f.default if f.default is not MISSING else inspect.Parameter.empty for f in fields(entry)}


def of_model(model: Any) -> Defaults:
    return {
        f.alias or name: f.default if f.default is not PydanticUndefined else inspect.Parameter.empty
        for name, f in model.model_fields.items()
    }


def dataset(name: str) -> Defaults:
    return {k: v for k, v in of_call(DATASETS[name]).items() if k not in RUNTIME_KEYS and k != "datasets"}


def said(value: Any) -> str | None:
    """A default as JSON says it; None: there is none, or it is a rule, which the table has in words."""
    if (
        value is inspect.Parameter.empty
        or value is None
        or not isinstance(value, bool | int | float | str | list | tuple)
    ):
        return None
    return value if isinstance(value, str) else json.dumps(value)


def same(cell: str, value: Any) -> bool:
    """Whether a cell gives a default: as JSON, or by its number."""
    expected = said(value)
    told = cell.strip("`")
    if expected is None or told == expected:
        return True
    try:
        return bool(json.loads(told) == json.loads(expected)) or json.loads(told) == list(value)
    except (ValueError, TypeError):
        return False


KEYED: dict[str, tuple[list[list[str]], Defaults]] = {
    "entries of audio_dir": (table("data", "audio_dir", "key of an entry"), of_entry(AudioDirEntry)),
    "audio_dir": (table("data", "audio_dir", "key of the file"), dataset("audio_dir")),
    "pre_encoded": (
        table("data", "Latents: encode once, train often", "key of the file"),
        dataset("pre_encoded"),
    ),
    "entries of wds": (table("data", "wds, s3", "key of an entry"), of_entry(WdsEntry)),
    "wds": (
        table("data", "wds, s3", "key of the file"),
        {k: v for k, v in dataset("wds").items() if k not in dataset("audio_dir")},
    ),
    "synthetic": (table("data", "synthetic"), dataset("synthetic")),
    "files": (table("configuration", "Model files", "key"), of_model(ModelConfig)),
    "demo": (table("configuration", "Training", "`demo.`"), of_model(CondDemoSection)),
    "ddpm": (table("diffusion", "Processes", "key of `ddpm`"), of_call(PROCESSES["ddpm"])),
    "distribution shift": (table("diffusion", "Distribution shift"), of_call(DistributionShift)),
}


def cells(rows: list[list[str]]) -> dict[str, str]:
    """Key -> the cell of its default; of keys that share a row, each its own."""
    found: dict[str, str] = {}
    for row in rows:
        keys = code(row[0])
        parts = re.split(r", (?![^\[]*\])", row[1]) if len(keys) > 1 else [row[1]]
        parts = parts if len(parts) == len(keys) else [row[1]] * len(keys)
        found |= dict(zip(keys, parts, strict=True))
    return found


@pytest.mark.parametrize("what", KEYED)
def test_the_table_has_every_key_and_no_other(what: str) -> None:
    rows, keys = KEYED[what]
    assert sorted(cells(rows)) == sorted(keys)


@pytest.mark.parametrize("what", KEYED)
def test_the_table_has_the_right_defaults(what: str) -> None:
    rows, keys = KEYED[what]
    wrong = {k: (cell, keys[k]) for k, cell in cells(rows).items() if not same(cell, keys[k])}
    assert not wrong


def test_the_table_of_diffusion_models_has_every_key() -> None:
    told = set(names(table("configuration", "`model` of diffusion_cond and diffusion_cond_inpaint")))
    told = {name.removeprefix("diffusion.").removeprefix("conditioning.") for name in told}
    told = {name.removeprefix(".") for name in told}
    keys = {*CondModel.model_fields, *DiffusionSection.model_fields, *ConditioningSection.model_fields}
    assert told | {"diffusion", "conditioning"} == keys


def test_the_layouts_of_unconditional_models_have_every_key() -> None:
    text = section("configuration", "`model` of diffusion_uncond")
    assert set(UncondModelSection.model_fields) <= set(code(text))


def test_training_of_diffusion_models_has_every_key() -> None:
    rows = table("configuration", "Training", "key")
    told = {name.split(".")[0] for name in names(rows)}
    assert told == set(CondTraining.model_fields)
    assert set(code(" ".join(r[2] for r in rows if r[0] == "`ema`"))) == set(EmaSection.model_fields)
    (mask,) = [r[2] for r in rows if r[0].startswith("`inpainting")]
    assert set(code(mask)) == set(MaskSection.model_fields)
    wrong = {}
    for key, cell in cells([r for r in rows if "." not in r[0]]).items():
        if cell and not same(cell, of_model(CondTraining)[key]):
            wrong[key] = cell
    assert set(wrong) <= {"loss_configs", "demo"}  # rules, said in words


def test_defaults_of_averaging_and_masks_are_told() -> None:
    (row,) = [r for r in table("configuration", "Training", "key") if r[0] == "`ema`"]
    for key, value in of_model(EmaSection).items():
        told = json.dumps(value) if value is None or isinstance(value, bool) else f"{value:g}"
        assert f"`{key}` {told}" in row[2]


@pytest.mark.parametrize(
    ("training", "demo", "start"),
    [
        (AutoencoderTrainingSection, AutoencoderDemoSection, "Of autoencoders:"),
        (DiffusionAutoencoderTrainingSection, DiffusionAutoencoderDemoSection, "Of diffusion autoencoders:"),
    ],
)
def test_training_of_autoencoders_has_every_key(training: Any, demo: Any, start: str) -> None:
    text = section("configuration", "Training")
    paragraph = text[text.index(start) :].split("\n\n")[0]
    told = {name.split(".")[0] for name in code(paragraph)}
    shared = {"batch_size", "max_steps", "gradient_clip_val", "log_every_n_steps"}
    assert set(training.model_fields) - shared - {"pre_encoded"} <= told
    assert set(demo.model_fields) <= told
    if training is AutoencoderTrainingSection:
        assert {*AutoencoderLosses.model_fields, *ValidationMetrics.model_fields} <= told


def test_loss_sections_of_autoencoders_are_told() -> None:
    rows = table("pretransforms", "Training an autoencoder", "section")
    assert sorted(names(rows)) == sorted(AutoencoderLosses.model_fields)


@pytest.mark.parametrize("name", CONDITIONERS)
def test_options_of_conditioners_are_told_with_their_defaults(name: str) -> None:
    (row,) = [r for r in table("conditioning", "Conditioning", "type") if r[0] == f"`{name}`"]
    leaf = SOUND_CONFIGS.get(name)
    keys = of_model(leaf) if leaf else of_call(CONDITIONERS[name], "g2p", "phonemes")
    keys.pop("output_dim", None)
    told = row[1]
    if "as `pretransform`" in told:
        told += "".join(r[1] for r in table("conditioning", "Conditioning") if r[0] == "`pretransform`")
    assert set(keys) <= set(code(told))
    for key, value in keys.items():
        if said(value) is not None:
            assert f"`{key}` {value:g}" in told if type(value) is float else f"`{key}` {said(value)}" in told


def missing_from(text: str, keys: Defaults) -> list[str]:
    """The keys that a cell lacks, or gives another default."""
    lists = {"bands", "activation_params", "channels", "strides"}  # long ones are said in words
    numbers = {k: f"{v:g}" for k, v in keys.items() if type(v) in (int, float)}
    told = {k: numbers.get(k) or said(v) for k, v in keys.items()}
    return [
        k
        for k, v in told.items()
        if (f"`{k}`" if v is None or (k in lists and v.startswith("[")) else f"`{k}` {v}") not in text
    ]


HEADINGS = {"encoder and decoder": "Autoencoders", "bottleneck": "Autoencoders"}


def key_rows(first: str) -> dict[str, list[str]]:
    """Name -> the cells of its row in the table of keys of a kind."""
    heading = HEADINGS.get(first, "Training an autoencoder")
    text = page("pretransforms") if first == "type" else section("pretransforms", heading)
    (rows,) = [t for t in tables(text) if t[0][0] == first and "keys of" in t[0][1]]
    return {name: row[1:] for row in rows[1:] for name in code(row[0])}


PARTS = {"type": PRETRANSFORMS, "bottleneck": BOTTLENECKS, "discriminator": DISCRIMINATORS}


@pytest.mark.parametrize("first", PARTS)
def test_keys_of_parts_of_pretransforms_are_told_with_their_defaults(first: str) -> None:
    rows = key_rows(first)
    for name, cls in PARTS[first].items():
        keys = of_model(leaf_model(cls)) if name != "autoencoder" else {}
        keys.pop("enable_grad", None)
        assert missing_from("".join(rows.get(name, [])), keys) == [], name


def test_keys_of_encoders_and_decoders_are_told_with_their_defaults() -> None:
    rows = key_rows("encoder and decoder")
    assert set(rows) == {*ENCODERS, *DECODERS}
    for name, (encoder, decoder) in rows.items():
        both = encoder + decoder if decoder.startswith("as the encoder's") else decoder
        assert missing_from(encoder, of_model(leaf_model(ENCODERS[name]))) == [], name
        assert missing_from(both, of_model(leaf_model(DECODERS[name]))) == [], name


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("DAU1d", "DAU1d"),
        ("adp_cfg_1d", "adp_cfg_1d, adp_1d, adp_uncond_1d"),
        ("adp_1d", "adp_cfg_1d, adp_1d, adp_uncond_1d"),
        ("mlp", "mlp"),
    ],
)
def test_keys_of_backbones_are_told_with_their_defaults(name: str, heading: str) -> None:
    assert missing_from(section("backbones", heading), of_model(leaf_model(BACKBONES[name]))) == []


def test_keys_of_dit_are_told() -> None:
    rows = dict(table("backbones", "dit", "key"))
    fields_of_dit = leaf_model(BACKBONES["dit"]).model_fields
    for key in ("attn_kwargs", "ff_kwargs", "norm_kwargs"):
        assert missing_from(rows[f"`{key}`"], of_model(fields_of_dit[key].annotation)) == []
    told = code(section("backbones", "dit")) + names(table("compatibility", "Keys of `dit`"))
    assert set(fields_of_dit) - {"modular_local_dims"} <= set(told)


def test_samplers_that_walk_levels_of_each_clip_are_told() -> None:
    (told,) = re.findall(r"levels for each clip of a batch\.(.*?)walk it", page("diffusion"), re.DOTALL)
    assert set(code(told)) == {name for name, spec in SAMPLERS.items() if spec.per_item}


def test_arguments_of_generate_are_told() -> None:
    told = names(table("inference", "Inference", "argument"))
    own = {*keywords_of(generate), *inspect.signature(generate).parameters} - {"model", "settings"}
    settings = {f.name for f in fields(Sampling)} - {"options"} | {"sampler_options"}
    assert sorted(told) == sorted(own | settings)


def test_init_noise_level_is_told_as_it_is() -> None:
    (row,) = [r for r in table("inference", "Inference") if "`init_audio`" in r[0]]
    assert f"({keywords_of(generate)['init_noise_level'].default};" in row[1]


def test_samplers_are_told_with_path_and_evaluations() -> None:
    for row in table("diffusion", "Samplers"):
        for name in code(row[0]):
            spec = SAMPLERS[name]
            assert SPACES[row[1].lower()] is spec.space
            if row[3].isdigit():
                assert int(row[3]) == spec.evaluations


def test_defaults_of_objectives_are_told() -> None:
    for row in table("diffusion", "Objectives"):
        (name,) = code(row[0])
        objective = OBJECTIVES[name]()
        assert code(row[3])[0] == objective.default_sampler
        assert f"{objective.usual_steps} steps" in row[3]
        scale = re.search(r"CFG (\d+)", row[3])
        assert (float(scale[1]) if scale else 6.0) == objective.default_cfg_scale


def test_entries_of_latents_are_told() -> None:
    text = section("data", "Latents: encode once, train often")
    shared = set(of_entry(AudioDirEntry))
    assert set(of_entry(PreEncodedEntry)) - shared <= set(code(text))
