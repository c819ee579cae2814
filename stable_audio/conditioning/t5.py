"""T5 text encoders, frozen by default (Raffel et al. 2020). Needs the extra `[text]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio.audio.json_files import read_json_object
from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.tokenizers import (
    ONE_AT_A_TIME,
    import_transformers,
    load_tokenizer,
    padded_ids,
)
from stable_audio.conditioning.values import TextValue
from stable_audio.network import load_failure, offline
from stable_audio.nn.precision import parameter_dtype
from stable_audio.nn.transfer import to_device


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

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class T5Conditioner(Conditioner):
    """Prompts -> T5 encoder features, zero at padding.

    A frozen encoder is loaded at first use and is not in the state_dict. A trained one (`enable_grad`) is a
    submodule.

    Args:
        t5_model_name: name from `T5_SIZES`, or a local folder with a T5 encoder and its tokenizer.
        max_length: tokens per prompt; shorter ones are padded, longer ones cut.
        enable_grad: train the encoder.
        encoder_dtype: type of a frozen encoder. Published checkpoints were trained with float16. A trained
            encoder is always float32.
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
    ) -> None:
        self.size = t5_size(t5_model_name)
        super().__init__(dim=self.size.d_model, output_dim=output_dim, project_out=project_out)
        self.t5_model_name, self.max_length, self.enable_grad = t5_model_name, max_length, enable_grad
        self.encoder_dtype = torch.float32 if enable_grad else _DTYPES[encoder_dtype]
        self._tokenizer: Any = None
        # Not a submodule: frozen weights belong neither to checkpoints nor to optimizers.
        self._frozen: list[nn.Module] = []
        if enable_grad:
            self.model = self._load()

    def value_rule(self) -> TextValue:
        return TextValue()

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b prompts -> (b max_length d), mask (b max_length)."""
        batch = padded_ids(lambda: self.tokenizer, values, self.max_length)
        ids = to_device(batch["input_ids"], device)
        mask = to_device(batch["attention_mask"].bool(), device)
        train = self.enable_grad and torch.is_grad_enabled()
        # Autocast would override the precision of the encoder.
        with torch.set_grad_enabled(train), torch.autocast(torch.device(device).type, enabled=False):
            hidden = self.encoder(device)(input_ids=ids, attention_mask=mask)["last_hidden_state"]
        hidden = self.proj_out(hidden.to(parameter_dtype(self.proj_out)))
        return hidden * mask.unsqueeze(-1), mask

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded at first use."""
        with ONE_AT_A_TIME:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.t5_model_name)
            return self._tokenizer

    def encoder(self, device: torch.device | str) -> nn.Module:
        """The T5 encoder. A frozen one is loaded to `device` at first use; it moves with this module."""
        if self.enable_grad:
            return self.model
        with ONE_AT_A_TIME:
            if not self._frozen:
                encoder = self._load().eval().requires_grad_(False)
                self._frozen.append(encoder.to(device=device, dtype=self.encoder_dtype))
            return self._frozen[0]

    def followers(self) -> Sequence[nn.Module]:
        return self._frozen

    def frozen_parameters(self) -> int:
        """Parameters of the frozen encoder, which `parameters()` does not count."""
        return 0 if self.enable_grad else self.size.parameters()

    def _load(self) -> nn.Module:
        transformers = import_transformers()
        if torch.get_default_device().type == "meta":
            return transformers.T5EncoderModel(_transformers_config(self.size))
        try:
            return transformers.T5EncoderModel.from_pretrained(
                self.t5_model_name, dtype=torch.float32, local_files_only=offline(self.t5_model_name)
            )
        except (OSError, ValueError) as error:
            reason = load_failure(self.t5_model_name, error)
            raise OSError(
                f"t5_model_name '{self.t5_model_name}' cannot be loaded: {reason}; connect to the hub, or "
                "give a folder that holds it"
            ) from error


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
