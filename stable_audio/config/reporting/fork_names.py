"""Names that forks and later versions of stable-audio-tools have for parts: what each is, and what to do."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from stable_audio.config.reporting.actions import Refuse, Rename
from stable_audio.config.reporting.problems import Loc
from stable_audio.wording import excerpt

_TOKENS = (
    "a model of audio tokens, which stable-audio-tools itself cannot run any more and published no weights "
    "for: not built; train a diffusion model ('diffusion_cond') on latents of an autoencoder instead"
)
_OWN_CLAP = (
    "the CLAP network of later versions of stable-audio-tools, which is not built; 'clap_text' and "
    "'clap_audio' are LAION's"
)
_PARQUET = (
    "a dataset of tables, whose sounds nothing here reads; unpack them into files ('audio_dir') or tars "
    "('wds')"
)
_LANGUAGE_MODEL = (
    "a prompt read by a decoder of text, which is not built; 'text_encoder' and 't5gemma' read it with "
    "encoders, for a model that is trained anew"
)
_STAGES = (
    "a coder of later versions of stable-audio-tools, which is not built; 'same' is the one of Stable Audio 3"
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
        "parquet": Refuse(_PARQUET),
    },
    "model.conditioning.configs.*.type": {
        "causal_lm": Refuse(_LANGUAGE_MODEL),
        "sat_clap_text": Refuse(_OWN_CLAP),
        "sat_clap_audio": Refuse(_OWN_CLAP),
    },
    "*bottleneck.type": {
        "brq": Refuse(_QUANTIZER),
        "round_fsq": Refuse(_QUANTIZER),
    },
    "*coder.type": {
        "local_attn": Refuse(
            "a coder that stable-audio-tools itself cannot build any more, and has removed: not built; "
            "'taae' is the one with attention"
        ),
        "patched": Refuse(_STAGES),
        "staged_patched": Refuse(_STAGES),
    },
    "training.loss_configs.discriminator.type": {
        "big_vgan": Refuse(
            "a discriminator that stable-audio-tools itself cannot build; use 'dac' or 'encodec'"
        ),
    },
    "*pretransform.type": {
        "audiocraft_pretrained": Refuse(
            "a codec that gives tokens only, which no diffusion model can use; 'dac_pretrained' gives latents"
        ),
    },
    "training.optimizer_configs.*.optimizer.type": {
        "MuonAdamW": Refuse(
            "Muon for matrices and AdamW for all other weights with options of its own; 'Muon' does the same"
        ),
        "CAdamW": Refuse(f"the cautious variant of AdamW, {_OPTIMIZER}"),
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
