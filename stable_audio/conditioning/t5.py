"""T5 text encoders, frozen by default (Raffel et al. 2020). Needs the extra `[text]`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from stable_audio.audio.json_files import read_json_object
from stable_audio.conditioning.pretrained.conditioner import DTYPES, PaddingMode, TextFeatures
from stable_audio.conditioning.pretrained.loading import load_network, on_meta
from stable_audio.conditioning.pretrained.network import LazyNetwork
from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.pretrained.tokens import TextTokens
from stable_audio.conditioning.tokenizers import import_transformers


@dataclass(frozen=True)
class T5Size:
    """Dimensions of a T5 encoder, enough to build it and to count its parameters without a download."""

    d_model: int
    d_ff: int
    num_layers: int
    num_heads: int
    d_kv: int = 64
    gated: bool = False
    vocab_size: int = 32_128
    buckets: int = 32

    def parameters(self) -> int:
        """Parameters of the encoder."""
        inner = self.num_heads * self.d_kv
        feed_forward = (3 if self.gated else 2) * self.d_model * self.d_ff
        layer = 4 * self.d_model * inner + feed_forward + 2 * self.d_model
        return (
            self.vocab_size * self.d_model
            + self.num_layers * layer
            + self.buckets * self.num_heads
            + self.d_model
        )


_XL = T5Size(2048, 5120, 24, 32, gated=True)
_XXL = T5Size(4096, 10240, 24, 64, gated=True)

T5_SIZES: dict[str, T5Size] = {
    "t5-small": T5Size(512, 2048, 6, 8),
    "t5-base": T5Size(768, 3072, 12, 12),
    "t5-large": T5Size(1024, 4096, 24, 16),
    "t5-3b": T5Size(1024, 16384, 24, 32, d_kv=128),
    "t5-11b": T5Size(1024, 65536, 24, 128, d_kv=128),
    "google/flan-t5-small": T5Size(512, 1024, 8, 6, gated=True),
    "google/flan-t5-base": T5Size(768, 2048, 12, 12, gated=True),
    "google/flan-t5-large": T5Size(1024, 2816, 24, 16, gated=True),
    "google/flan-t5-xl": _XL,
    "google/flan-t5-xxl": _XXL,
    "google/t5-v1_1-xl": _XL,
    "google/t5-v1_1-xxl": _XXL,
}


class T5Conditioner(TextFeatures):
    """Prompts -> T5 encoder features.

    A frozen encoder is loaded at first use and is not in the state_dict. A trained one (`enable_grad`) is a
    submodule.

    Args:
        t5_model_name: name from `T5_SIZES`, or a local folder with a T5 encoder and its tokenizer.
        max_length: tokens per prompt; shorter ones are padded, longer ones cut.
        enable_grad: train the encoder.
        encoder_dtype: type of a frozen encoder. Published checkpoints were trained with float16. A trained
            encoder is always float32.
        padding_mode: what stands at padding: zeros, the encoder's output there, or a learned vector.
    """

    def __init__(
        self,
        *,
        output_dim: int,
        t5_model_name: str = "t5-base",
        max_length: int = 128,
        enable_grad: bool = False,
        project_out: bool = False,
        encoder_dtype: Literal["float16", "bfloat16", "float32"] = "float16",
        padding_mode: PaddingMode = "zero",
    ) -> None:
        self.size = t5_size(t5_model_name)
        self.t5_model_name, self.enable_grad = t5_model_name, enable_grad
        source = NetworkSource(t5_model_name, "t5_model_name")
        self.encoder_dtype = torch.float32 if enable_grad else DTYPES[encoder_dtype]
        load = partial(_load, source, self.size)
        super().__init__(
            dim=self.size.d_model,
            output_dim=output_dim,
            project_out=project_out,
            tokens=TextTokens(source=source, max_length=max_length),
            padding_mode=padding_mode,
            train=enable_grad,
            load_trained=load,
            network=LazyNetwork(
                load=load,
                identity=partial(source.identity, "T5EncoderModel"),
                count=self.size.parameters,
                dtype=self.encoder_dtype,
            ),
        )

    def frozen_parameters(self) -> int:
        """Parameters of the frozen encoder, which `parameters()` does not count."""
        return 0 if self.enable_grad else self.size.parameters()


def _load(source: NetworkSource, size: T5Size) -> nn.Module:
    transformers = import_transformers()
    if on_meta():
        known = source.config_at_hand() is not None
        return transformers.T5EncoderModel(source.config() if known else _transformers_config(size))
    return load_network(transformers.T5EncoderModel, source, dtype=torch.float32)


def t5_size(name: str) -> T5Size:
    """Dimensions of the encoder called `name`: from the table, or from the config.json of a folder.

    Raises:
        ValueError: neither a known name nor a folder with a config.json.
    """
    if name in T5_SIZES:
        return T5_SIZES[name]
    file = Path(name).expanduser() / "config.json"
    if not file.is_file():
        raise ValueError(
            f"t5_model_name is '{name}', neither a folder with a config.json nor one of {sorted(T5_SIZES)}"
        )
    config = read_json_object(file)
    lacking = [
        key
        for key in ("d_model", "d_ff", "num_layers", "num_heads", "d_kv", "vocab_size")
        if key not in config
    ]
    if lacking:
        raise ValueError(f"{file}: has no {', '.join(lacking)}, so it describes no T5 encoder")
    return T5Size(
        d_model=config["d_model"],
        d_ff=config["d_ff"],
        num_layers=config["num_layers"],
        num_heads=config["num_heads"],
        d_kv=config["d_kv"],
        gated=config.get("feed_forward_proj", "relu").startswith("gated"),
        vocab_size=config["vocab_size"],
        buckets=config.get("relative_attention_num_buckets", 32),
    )


def _transformers_config(size: T5Size) -> Any:
    return import_transformers().T5Config(
        d_model=size.d_model,
        d_ff=size.d_ff,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        d_kv=size.d_kv,
        vocab_size=size.vocab_size,
        relative_attention_num_buckets=size.buckets,
        feed_forward_proj="gated-gelu" if size.gated else "relu",
    )
