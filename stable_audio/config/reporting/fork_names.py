"""Names that forks and later versions of stable-audio-tools have for parts: what each is, and what to do."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from stable_audio.config.reporting.actions import Refuse, Rename
from stable_audio.config.reporting.problems import Loc
from stable_audio.wording import excerpt

_TOKENS = (
    "a model of audio tokens, which no version of stable-audio-tools can run and nobody has published "
    "weights of: not built; train a diffusion model ('diffusion_cond') on latents of an autoencoder instead"
)
_OWN_CLAP = (
    "the CLAP network of later versions of stable-audio-tools, which is not built: no weights of it are "
    "published"
)
_VIDEO_DATA = (
    "a dataset of sound with video, which nothing here reads; use 'audio_dir' with features of the video "
    "that a custom_metadata_module returns"
)
_QUANTIZER = (
    "a quantizer of a fork that is not built; an autoencoder that is trained anew may have 'fsq', "
    "'dithered_fsq', 'rvq' or 'dac_rvq'"
)
_OPTIMIZER = "not built; 'AdamW' trains with more memory, or at a learning rate of its own"

FORK_VALUES: dict[str, dict[str, Rename | Refuse]] = {
    "model_type": {
        "lm": Refuse(_TOKENS),
        "clap": Refuse(f"training of {_OWN_CLAP}"),
    },
    "dataset_type": {
        "local_wds": Rename("wds"),
        "audio_video_dir": Refuse(_VIDEO_DATA),
    },
    "model.conditioning.configs.*.type": {
        "sat_clap_text": Refuse(_OWN_CLAP),
        "sat_clap_audio": Refuse(_OWN_CLAP),
    },
    "*bottleneck.type": {
        "brq": Refuse(_QUANTIZER),
        "round_fsq": Refuse(_QUANTIZER),
    },
    "*coder.type": {
        "local_attn": Refuse(
            "a coder that fails in every version of stable-audio-tools, so that there are no weights of it; "
            "'taae' is the one with attention"
        ),
    },
    "*pretransform.type": {
        "audiocraft_pretrained": Refuse(
            "a codec that gives tokens only, which no diffusion model can use; 'dac_pretrained' gives latents"
        ),
    },
    "training.optimizer_configs.*.optimizer.type": {
        "MuonAdamW": Refuse(f"Muon for matrices and AdamW for all other weights, {_OPTIMIZER}"),
        "CAdamW": Refuse(f"the cautious variant of AdamW, {_OPTIMIZER}"),
        "AdamW8bit": Refuse(f"AdamW with averages of 8 bits (bitsandbytes), {_OPTIMIZER}"),
        "CLion": Refuse(f"the cautious variant of Lion, {_OPTIMIZER}"),
    },
}
"""Path of a name, with `*` for anything -> name -> what becomes of it."""


def foreign_value(loc: Loc, value: Any) -> Rename | Refuse | None:
    """The table's entry for a name that no registry has, such as a type of conditioner, at its place."""
    if not isinstance(value, str):
        return None
    path = ".".join(str(part) for part in loc)
    tables = (table for pattern, table in FORK_VALUES.items() if fnmatchcase(path, pattern))
    return next((table[value] for table in tables if value in table), None)


def refused_value(loc: Loc, value: Any) -> str | None:
    """What a name that no registry has is, and what to do, as a sentence; None if the table lacks it."""
    known = foreign_value(loc, value)
    return f"found {excerpt(value)}: {known.reason}" if isinstance(known, Refuse) else None
