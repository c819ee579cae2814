"""Files of LAION-CLAP (Wu et al. 2023) -> weights and settings of transformers' CLAP, the same networks.

Such a file is a pickle with a `state_dict`. Its keys, after a prefix such as `module.`, begin with
`text_branch.` (RoBERTa), `audio_branch.` (HTSAT), `text_projection.` and `audio_projection.`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.characters import refuse_name
from stable_audio.stored.contents import why_not_weights
from stable_audio.stored.safetensors_files import read_safetensors

TEXT, AUDIO = "text", "audio"

ANCHOR = "text_branch.embeddings.word_embeddings.weight"
HEAD_DIM = 64
"""Features per attention head of RoBERTa, in all its sizes."""

ROBERTA_EPS = 1e-5
SPEC_SIZE = 256
"""Height and width of the image that HTSAT makes of a spectrogram; it leaves no trace in the weights."""

_RENAMES = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.bn0\.", "audio_model.audio_encoder.batch_norm."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"^(text|audio)_projection\.0\.", r"\1_projection.linear1."),
    (r"^(text|audio)_projection\.2\.", r"\1_projection.linear2."),
)
_RENAMES_IN_HTSAT = (
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)
_UNUSED = re.compile(
    r"^(logit_scale_|(text|audio)_transform\.)|\.position_ids$|\.token_type_ids$|\.attn_mask$"
    r"|^audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head|spec_augmenter)\b"
)
"""Weights that embeddings do not depend on, and buffers that are computed."""


def read_laion(path: Path) -> dict[str, Tensor]:
    """Weights of a LAION-CLAP file by their key, without the prefix that all keys have; not copied yet.

    Raises:
        OSError: the file does not exist.
        ValueError: it is damaged, or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; give a checkpoint of LAION-CLAP, a folder saved by transformers' "
            "ClapModel, or its hub id, such as laion/clap-htsat-fused"
        )
    if (reason := why_not_weights(path)) is not None:
        raise ValueError(f"{path}: {reason}")
    tensors = _tensors(path)
    anchor = next((k for k in tensors if k.endswith(ANCHOR)), None)
    if anchor is None:
        raise ValueError(
            f"{path}: no checkpoint of LAION-CLAP: it has no weight '{ANCHOR}', with or without a prefix"
        )
    prefix = anchor.removesuffix(ANCHOR)
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def to_transformers(tensors: Mapping[str, Tensor], branch: str) -> dict[str, Tensor]:
    """Weights of one branch, TEXT or AUDIO, under the names of transformers' Clap*ModelWithProjection."""
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if not key.startswith((f"{branch}_branch.", f"{branch}_projection.")) or _UNUSED.search(key):
            continue
        name = _name(key)
        if ".attention.self.qkv." in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3)):
                renamed[name.replace("qkv", part)] = rows
        else:
            renamed[name] = value
    return renamed


_IN_MODEL = re.compile(r"^(conditioner\.conditioners\.[^.]+\.model\.)(?:model\.)?(.+)$")


def in_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a whole model, in which the text branch of a fine-tuned LAION-CLAP gets our names.

    stable-audio-tools stores it below `conditioner.conditioners.<id>.model.`, in the wrapper of LAION-CLAP.
    What it stores there besides, without effect on embeddings, is left out.
    """
    branches: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if match := _IN_MODEL.match(key):
            branches.setdefault(match[1], {})[match[2]] = value
    laion = {place: branch for place, branch in branches.items() if ANCHOR in branch}
    renamed = {k: v for k, v in tensors.items() if not k.startswith(tuple(laion))} if laion else dict(tensors)
    for place, branch in laion.items():
        positions = branch["text_branch.embeddings.position_embeddings.weight"].shape[0]
        computed = {
            "text_model.embeddings.position_ids": torch.arange(positions)[None],
            "text_model.embeddings.token_type_ids": torch.zeros(1, positions, dtype=torch.long),
        }
        renamed.update({place + k: v for k, v in {**to_transformers(branch, TEXT), **computed}.items()})
    return renamed


def text_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of transformers' ClapTextConfig for such weights.

    Raises:
        ValueError: they are of no RoBERTa with a projection of two layers.
    """
    with _Shapes("text_branch"):
        vocabulary, width = tensors[ANCHOR].shape
        layers = "text_branch.encoder.layer."
        return {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "num_attention_heads": max(1, width // HEAD_DIM),
            "num_hidden_layers": _count(tensors, layers),
            "intermediate_size": tensors[f"{layers}0.intermediate.dense.weight"].shape[0],
            "max_position_embeddings": tensors["text_branch.embeddings.position_embeddings.weight"].shape[0],
            "type_vocab_size": tensors["text_branch.embeddings.token_type_embeddings.weight"].shape[0],
            "layer_norm_eps": ROBERTA_EPS,
            "projection_dim": tensors["text_projection.2.weight"].shape[0],
        }


def audio_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of transformers' ClapAudioConfig for such weights.

    Raises:
        ValueError: they are of no HTSAT with a projection of two layers.
    """
    with _Shapes("audio_branch"):
        patches = tensors["audio_branch.patch_embed.proj.weight"]
        width, patch = patches.shape[0], patches.shape[-1]
        stages = range(_count(tensors, "audio_branch.layers."))
        blocks = [f"audio_branch.layers.{n}.blocks." for n in stages]
        tables = [tensors[f"{b}0.attn.relative_position_bias_table"] for b in blocks]
        fused = "audio_branch.patch_embed.mel_conv2d.weight" in tensors
        settings = {
            "patch_embeds_hidden_size": width,
            "patch_size": patch,
            "patch_stride": [patch, patch],
            "depths": [_count(tensors, b) for b in blocks],
            "num_attention_heads": [t.shape[1] for t in tables],
            "window_size": (round(tables[0].shape[0] ** 0.5) + 1) // 2,
            "mlp_ratio": tensors[f"{blocks[0]}0.mlp.fc1.weight"].shape[0] / width,
            "hidden_size": width * 2 ** (len(blocks) - 1),
            "num_hidden_layers": len(blocks),
            "num_mel_bins": tensors["audio_branch.bn0.weight"].shape[0],
            "spec_size": SPEC_SIZE,
            "projection_dim": tensors["audio_projection.2.weight"].shape[0],
            "enable_fusion": fused,
        }
        if fused:
            reduced = tensors["audio_branch.patch_embed.fusion_model.local_att.0.weight"].shape[0]
            settings.update(fusion_type="aff_2d", aff_block_r=width // reduced)
        return settings


class _Shapes:
    """Turns the lack of a weight into a sentence."""

    def __init__(self, branch: str) -> None:
        self.branch = branch

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, KeyError):
            raise ValueError(
                f"its {self.branch} is of a kind that is not served: it has no {error}"
            ) from None


def _tensors(path: Path) -> Mapping[str, Tensor]:
    refuse_name(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        with torch.serialization.safe_globals(_numbers_of_numpy()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: not a checkpoint, or one that only running code would restore") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: truncated, damaged or no checkpoint at all; copy it again") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    return {str(k): v for k, v in state.items() if isinstance(v, Tensor)}


def _is_archive(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _numbers_of_numpy() -> list[Any]:
    """What the published files hold beside tensors: numbers, which restore without running code."""
    import numpy as np

    core = getattr(np, "_core", None) or np.core
    scalar = core.multiarray.scalar
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(t)) for t in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
    ]


def _name(key: str) -> str:
    for pattern, name in _RENAMES:
        key = re.sub(pattern, name, key)
    if key.startswith("audio_model."):
        for pattern, name in _RENAMES_IN_HTSAT:
            key = re.sub(pattern, name, key)
    return key


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of modules in the list below `prefix`."""
    return 1 + max((int(k[len(prefix) :].split(".")[0]) for k in tensors if k.startswith(prefix)), default=-1)
