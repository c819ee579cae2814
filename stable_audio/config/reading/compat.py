"""Keys that later versions of stable-audio-tools add, and what becomes of them and of those of its forks.

The table is consulted only for keys that the schema does not know, so a key that a component supports needs
no entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from stable_audio.config.reading.forks import FORK_KEYS
from stable_audio.config.reporting.actions import OFF as _OFF
from stable_audio.config.reporting.actions import Foreign, Ignore, Refuse, Rename, Spread
from stable_audio.config.reporting.problems import Loc

_BACKBONE = "model.diffusion.config"

FOREIGN_KEYS: dict[str, Foreign] = {
    "svd_bases_path": Ignore("the singular vectors of -xs adapters are computed from the weights"),
    "name": Ignore("run names are given by --name"),
    "version": Ignore("the format has no versions"),
    # backbone
    f"{_BACKBONE}.diffusion_objective": Ignore("the objective is model.diffusion.diffusion_objective"),
    "model.config.diffusion_objective": Ignore("the objective is model.diffusion_objective"),
    f"{_BACKBONE}.use_checkpointing": Ignore("use training.gradient_checkpointing"),
    f"{_BACKBONE}.cross_attn_rotary_pos_emb": Refuse(
        "no rotary positions in cross-attention", _OFF, essential=True
    ),
    # conditioners
    "model.conditioning.configs.*.config.padding_mode": Refuse(
        "padding is zeroed", (None, "zero"), essential=True
    ),
    # training
    "training.arc": Refuse("adversarial post-training is not built", _OFF),
    "training.metrics": Ignore("metrics are measured by commands, not during training"),
    "training.clip_grad_norm": Rename("gradient_clip_val"),
    "training.optimizer_configs.discriminator": Refuse("adversarial post-training is not built"),
    "training.decoder_loss": Refuse("the decoder is trained by loss_configs", _OFF),
    "training.num_synthetic_chirps": Refuse("no synthetic chirps join the batches", _OFF),
    "training.stride_curriculum": Refuse("strides do not change during training", _OFF),
    "training.tail_masking_max_patches": Refuse("the end of the latents is not masked at random", _OFF),
    "training.trim_config": Refuse("it belongs to adversarial post-training", _OFF),
    "training.demo.display_audio_cond": Ignore("audio conditioning is not shown in demos"),
    "training.demo.cond_display_configs": Ignore("audio conditioning is not shown in demos"),
    **FORK_KEYS,
}


_MARK = re.compile(r"_+comment.*|//.*|#.*|\$comment", re.IGNORECASE)
"""Keys by which people write comments in JSON, which has none."""

_COMMENT = re.compile(r"comments?|_*notes?", re.IGNORECASE)
"""Keys that are comments where they are no keys of ours."""


def drop_comments(value: Any, at: Loc = ()) -> Iterator[Loc]:
    """Remove the comments anywhere below `value`, in place; gives the place of each."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from drop_comments(entry, (*at, index))
    elif isinstance(value, dict):
        for key in [k for k in value if _MARK.fullmatch(k)]:
            del value[key]
            yield (*at, key)
        for key, part in value.items():
            yield from drop_comments(part, (*at, key))


def foreign_key(loc: Loc) -> Foreign | None:
    """The table's entry for an unknown key; `*` in a pattern stands for any one key or index."""
    if loc and _COMMENT.fullmatch(str(loc[-1])):
        return Ignore("it is a comment")
    path = ".".join(str(part) for part in loc)
    return next((v for k, v in FOREIGN_KEYS.items() if fnmatchcase(path, k)), None)


__all__ = ["FOREIGN_KEYS", "Ignore", "Refuse", "Rename", "Spread", "drop_comments", "foreign_key"]
