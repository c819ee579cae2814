"""Export to the folder layout of Hugging Face diffusers' `StableAudioPipeline`.

Only names and shapes change: fused projections are split, snake parameters gain two axes. What that layout
cannot express (adaLN, patches, other objectives, ...) is refused with the list of reasons.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stable_audio.audio.atomic import atomic_write
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.keys import OURS
from stable_audio.checkpoints.parts import part_of
from stable_audio.model import DiffusionModel

logger = logging.getLogger(__name__)

WEIGHTS = "diffusion_pytorch_model.safetensors"

DIT_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^to_timestep_embed\.", "timestep_proj."),
    (r"^to_global_embed\.", "global_proj."),
    (r"^to_cond_embed\.", "cross_attention_proj."),
    (r"^transformer\.project_in\.", "proj_in."),
    (r"^transformer\.project_out\.", "proj_out."),
    (r"^transformer\.layers\.", "transformer_blocks."),
    (r"\.pre_norm\.gamma$", ".norm1.weight"),
    (r"\.pre_norm\.beta$", ".norm1.bias"),
    (r"\.cross_attend_norm\.gamma$", ".norm2.weight"),
    (r"\.cross_attend_norm\.beta$", ".norm2.bias"),
    (r"\.ff_norm\.gamma$", ".norm3.weight"),
    (r"\.ff_norm\.beta$", ".norm3.bias"),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.to_out\.weight$", ".to_out.0.weight"),
    (r"\.ff\.ff\.", ".ff.net."),
)
SPLITS = {"to_qkv": ("to_q", "to_k", "to_v"), "to_kv": ("to_k", "to_v")}

# Keys of `model.diffusion.config` that the layout can only express at one value.
FIXED_DIT = {
    "patch_size": 1,
    "project_global_cond": True,
    "input_concat_dim": 0,
    "prepend_cond_dim": 0,
    "transformer_type": "continuous_transformer",
    "global_cond_type": "prepend",
    "timestep_cond_type": "global",
    "rotary_pos_emb": True,
    "causal": False,
    "conformer": False,
    "use_sinusoidal_emb": False,
    "use_abs_pos_emb": False,
    "num_memory_tokens": 0,
    "sliding_window": None,
    "final_cross_attn_ix": -1,
    "remove_norms": False,
    "add_rope": False,
    "layer_scale": False,
}
UNUSED_DICTS = ("attn_kwargs", "norm_kwargs")


def export_diffusers(model: DiffusionModel, folder: str | Path, *, config: Mapping[str, Any]) -> Path:
    """Write `model` as a diffusers pipeline folder.

    Written: `transformer`, `vae` (when the pretransform is an oobleck VAE), `projection_model` (from the
    conditioners prompt, seconds_start, seconds_total), `scheduler` and `model_index.json`; `text_encoder`
    and `tokenizer` when the prompt conditioner is a T5 whose weights are at hand.

    Args:
        config: the model config as a dictionary.

    Raises:
        CheckpointError: the model has parts that the layout cannot express; all are named.
    """
    folder = Path(folder)
    _refuse(unsupported(config))
    index: dict[str, Any] = {"_class_name": "StableAudioPipeline"}
    diffusion = config["model"]["diffusion"]["config"]
    tensors = dit_state(model.backbone.state_dict())
    _write(folder / "transformer", tensors, dit_config(diffusion, model.latent_shape[-1]))
    index["transformer"] = ["diffusers", "StableAudioDiTModel"]
    if model.pretransform is not None:
        autoencoder = config["model"]["pretransform"]["config"]
        state = oobleck_state(_below(model.pretransform.state_dict(), "model."))
        _write(folder / "vae", state, oobleck_config(autoencoder, model.sample_rate))
        index["vae"] = ["diffusers", "AutoencoderOobleck"]
    if model.conditioner is not None:
        index.update(_write_conditioners(folder, model.conditioner.conditioners))
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    index["scheduler"] = ["diffusers", "CosineDPMSolverMultistepScheduler"]
    _write_json(folder / "model_index.json", index)
    return folder


def export_diffusers_backbone(model: nn.Module, folder: str | Path, *, config: Mapping[str, Any]) -> Path:
    """Write the backbone alone, as `StableAudioDiTModel.from_pretrained(folder)` reads it.

    Raises:
        CheckpointError: see `export_diffusers`.
    """
    _refuse(_unsupported_backbone(config))
    tensors, _ = part_of(model, config, "backbone")
    frames = cast(DiffusionModel, model).latent_shape[-1]
    options = dit_config(config["model"]["diffusion"]["config"], frames)
    _write(Path(folder), dit_state(_below(tensors, OURS)), options)
    return Path(folder)


def export_diffusers_autoencoder(model: nn.Module, folder: str | Path, *, config: Mapping[str, Any]) -> Path:
    """Write an autoencoder, or a model's, as `AutoencoderOobleck.from_pretrained(folder)` reads it.

    Raises:
        CheckpointError: see `export_diffusers`.
    """
    tensors, alone = part_of(model, config, "pretransform")
    _refuse(_unsupported_pretransform({"type": "autoencoder", "config": alone["model"]}))
    _write(Path(folder), oobleck_state(tensors), oobleck_config(alone["model"], alone["sample_rate"]))
    return Path(folder)


def _refuse(reasons: list[str]) -> None:
    if reasons:
        raise CheckpointError(f"diffusers' Stable Audio layout cannot hold this model: {'; '.join(reasons)}")


SCHEDULER = {
    "_class_name": "CosineDPMSolverMultistepScheduler",
    "sigma_min": 0.3,
    "sigma_max": 500,
    "sigma_data": 1.0,
    "prediction_type": "v_prediction",
    "sigma_schedule": "exponential",
    "solver_order": 2,
}


def unsupported(config: Mapping[str, Any]) -> list[str]:
    """What of a model config diffusers' Stable Audio layout cannot express, one sentence part each."""
    reasons = _unsupported_backbone(config)
    if config.get("model", {}).get("diffusion", {}).get("type") != "dit":
        return reasons
    return reasons + _unsupported_pretransform(config["model"].get("pretransform"))


def _unsupported_backbone(config: Mapping[str, Any]) -> list[str]:
    diffusion = config.get("model", {}).get("diffusion", {})
    if diffusion.get("type") != "dit":
        return [f"the backbone is '{diffusion.get('type')}', not 'dit'"]
    options = diffusion.get("config", {})
    reasons = [
        f"{key} is {options[key]!r}, not {value!r}"
        for key, value in FIXED_DIT.items()
        if options.get(key, value) != value
    ]
    reasons += [f"{key} is set" for key in UNUSED_DICTS if options.get(key)]
    reasons += [f"ff_kwargs.{k} is set" for k in options.get("ff_kwargs") or {} if k != "zero_init_output"]
    reasons += [f"{key} is 0" for key in ("cond_token_dim", "global_cond_dim") if not options.get(key)]
    if (objective := diffusion.get("diffusion_objective", "v")) != "v":
        reasons.append(f"the objective is '{objective}', not 'v'")
    process = (diffusion.get("diffusion_process") or {}).get("type", "cosine")
    if process != "cosine":
        reasons.append(f"the diffusion process is '{process}', not 'cosine'")
    return reasons


def _unsupported_pretransform(pretransform: Mapping[str, Any] | None) -> list[str]:
    if pretransform is None:
        return []
    if pretransform.get("type") != "autoencoder":
        return [f"the pretransform is '{pretransform.get('type')}', not 'autoencoder'"]
    spec = pretransform["config"]
    parts = {p: spec.get(p) or {} for p in ("encoder", "decoder", "bottleneck")}
    reasons = [
        f"the {p} is '{parts[p].get('type')}', not 'oobleck'"
        for p in ("encoder", "decoder")
        if parts[p].get("type") != "oobleck"
    ]
    if parts["bottleneck"].get("type") != "vae":
        reasons.append(f"the bottleneck is '{parts['bottleneck'].get('type')}', not 'vae'")
    for name in ("encoder", "decoder"):
        options = parts[name].get("config", {})
        if not options.get("use_snake"):
            reasons.append(f"the {name} has no snake activations")
        if options.get("antialias_activation") or options.get("use_nearest_upsample"):
            reasons.append(f"the {name} is antialiased or upsamples by repetition")
    if parts["decoder"].get("config", {}).get("final_tanh", True) or parts["decoder"].get("soft_clip"):
        reasons.append("the decoder ends in tanh")
    coders = [parts[p].get("config", {}) for p in ("encoder", "decoder")]
    channels, latent_dim = coders[0].get("channels", 128), coders[0].get("latent_dim", 32)
    if channels != latent_dim:
        reasons.append(f"the encoder has {channels} channels, not as many as its latent_dim {latent_dim}")
    reasons += [
        f"encoder and decoder differ in {k}"
        for k in ("c_mults", "strides")
        if coders[0].get(k) != coders[1].get(k)
    ]
    if spec.get("pretransform"):
        reasons.append("the autoencoder has a pretransform of its own")
    if pretransform.get("scale", 1.0) != 1.0:
        reasons.append(f"the pretransform's scale is {pretransform['scale']}, not 1")
    return reasons


def dit_config(options: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """`model.diffusion.config` -> config.json of StableAudioDiTModel."""
    width, heads = options.get("embed_dim", 768), options.get("num_heads", 8)
    tokens = options["cond_token_dim"]
    cross = width if options.get("project_cond_tokens", True) else tokens
    return {
        "_class_name": "StableAudioDiTModel",
        "sample_size": frames,
        "in_channels": options.get("io_channels", 32),
        "out_channels": options.get("io_channels", 32),
        "num_layers": options.get("depth", 12),
        "attention_head_dim": width // heads,
        "num_attention_heads": heads,
        "num_key_value_attention_heads": cross // (width // heads),
        "cross_attention_dim": cross,
        "cross_attention_input_dim": tokens,
        "global_states_input_dim": options["global_cond_dim"],
        "time_proj_dim": 256,
    }


def dit_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our DiT -> those of StableAudioDiTModel."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("inv_freq"):
            continue
        if key == "timestep_features.weight":
            out["time_proj.weight"] = value.flatten()
            continue
        name = _renamed(key, DIT_RENAMES)
        out.update(_split(name, value))
    return out


def _split(name: str, value: Tensor) -> Iterable[tuple[str, Tensor]]:
    for fused, parts in SPLITS.items():
        if f".{fused}." in name:
            chunks = value.chunk(len(parts))
            return [(name.replace(fused, part), c.contiguous()) for part, c in zip(parts, chunks)]
    return [(name, value)]


def oobleck_config(spec: Mapping[str, Any], sample_rate: int) -> dict[str, Any]:
    """Autoencoder config -> config.json of AutoencoderOobleck."""
    encoder = {"channels": 128, "c_mults": [1, 2, 4, 8], "strides": [2, 4, 8, 8], **spec["encoder"]["config"]}
    decoder = {"channels": 128, **spec["decoder"]["config"]}
    return {
        "_class_name": "AutoencoderOobleck",
        "encoder_hidden_size": encoder["channels"],
        "downsampling_ratios": list(encoder["strides"]),
        "channel_multiples": list(encoder["c_mults"]),
        "decoder_channels": decoder["channels"],
        "decoder_input_channels": spec["latent_dim"],
        "audio_channels": spec["io_channels"],
        "sampling_rate": sample_rate,
    }


def oobleck_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our oobleck autoencoder -> those of AutoencoderOobleck."""
    out: dict[str, Tensor] = {}
    for part in ("encoder", "decoder"):
        layers = _below(state, f"{part}.layers.")
        last = max(int(k.split(".")[0]) for k in layers)
        for key, value in _with_norms(layers).items():
            snake = key.endswith((".alpha", ".beta"))
            out[f"{part}.{_oobleck_name(part, key, last)}"] = value.view(1, -1, 1) if snake else value
    return out


def _with_norms(layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split folded weights into norm and direction again, which that library always expects."""
    out: dict[str, Tensor] = {}
    for key, value in layers.items():
        if key.endswith(".weight"):
            axes = tuple(range(1, value.ndim))
            out[key + "_g"] = torch.linalg.vector_norm(value, dim=axes, keepdim=True)
            out[key + "_v"] = value
        else:
            out[key] = value
    return out


def _oobleck_name(part: str, key: str, last: int) -> str:
    index, rest = key.split(".", 1)
    n = int(index)
    if n in (0, last - 1, last):
        return {0: "conv1", last - 1: "snake1", last: "conv2"}[n] + "." + rest
    inner = re.match(r"layers\.(\d+)\.(.*)", rest)
    assert inner is not None, f"stage without layers: {key}"
    position, tail = int(inner[1]), inner[2]
    # Encoder stages end with their strided convolution, decoder stages begin with it.
    names = (
        {0: "res_unit1", 1: "res_unit2", 2: "res_unit3", 3: "snake1", 4: "conv1"}
        if part == "encoder"
        else {0: "snake1", 1: "conv_t1", 2: "res_unit1", 3: "res_unit2", 4: "res_unit3"}
    )
    unit = re.match(r"layers\.(\d)\.(.*)", tail)
    if unit is not None:
        tail = {0: "snake1", 1: "conv1", 2: "snake2", 3: "conv2"}[int(unit[1])] + "." + unit[2]
    return f"block.{n - 1}.{names[position]}.{tail}"


def _write_conditioners(folder: Path, conditioners: nn.ModuleDict) -> dict[str, Any]:
    index: dict[str, Any] = {}
    needed = ("prompt", "seconds_start", "seconds_total")
    if any(n not in conditioners for n in needed) or not hasattr(conditioners["seconds_start"], "embedder"):
        logger.warning(
            "no projection_model written: it needs conditioners %s, the last two of type number", needed
        )
        return index
    prompt, start, end = (cast(Any, conditioners[n]) for n in needed)
    tensors = {f"text_projection.{k}": v for k, v in prompt.proj_out.state_dict().items()}
    for name, module in (("start", start), ("end", end)):
        for key, value in module.embedder.embedding.state_dict().items():
            tensors[f"{name}_number_conditioner.time_positional_embedding.{key}"] = value
    options = {
        "_class_name": "StableAudioProjectionModel",
        "text_encoder_dim": prompt.dim,
        "conditioning_dim": prompt.output_dim,
        "min_value": start.min_val,
        "max_value": start.max_val,
    }
    _write(folder / "projection_model", tensors, options)
    index["projection_model"] = ["stable_audio", "StableAudioProjectionModel"]
    return {**index, **_write_text_encoder(folder, prompt)}


def _write_text_encoder(folder: Path, prompt: Any) -> dict[str, Any]:
    if not hasattr(prompt, "t5_model_name"):
        logger.warning("no text_encoder written: the prompt conditioner is not a t5")
        return {}
    try:
        prompt.encoder("cpu").float().save_pretrained(folder / "text_encoder")
        prompt.tokenizer.save_pretrained(folder / "tokenizer")
    except (OSError, ImportError) as error:
        logger.warning("no text_encoder written, add '%s' by hand: %s", prompt.t5_model_name, error)
        return {}
    return {
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", type(prompt.tokenizer).__name__],
    }


def _renamed(key: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def _write(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    stored = {k: v.detach().to("cpu").clone().contiguous() for k, v in tensors.items()}
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file(stored, str(temporary), {"format": "pt"})
    _write_json(folder / "config.json", config)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
