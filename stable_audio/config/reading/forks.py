"""Keys that forks of stable-audio-tools add, and its older versions had: what becomes of each."""

from __future__ import annotations

from stable_audio.config.reporting.actions import OFF, Foreign, Ignore, Refuse, Spread

_ADAPTERS = Refuse(
    "it asks to train low-rank adapters in the way of LoRAW; training.lora_config does so here",
    OFF,
    training=True,
)
_INPUT_ADD = Refuse(
    "it adds conditioning to the input of the backbone, which is not built; a model that is trained anew may "
    "have it added in every block by local_add_cond_ids, or as further channels by input_concat_ids",
    OFF,
    essential=True,
)
_VIDEO_RATE = Ignore("it is the frame rate of video, which nothing here reads")

FORK_KEYS: dict[str, Foreign] = {
    "description": Ignore("it is for people"),
    # older dataset files
    "custom_metadata_module": Spread(over="datasets"),
    # friendly-stable-audio-tools
    "training.tqdm": Ignore("progress is shown at every step"),
    "training.logging": Ignore(
        "metrics.csv has the loss of every step; --logger chooses what else is written"
    ),
    "training.checkpoint": Ignore("checkpoints are written as --checkpoint-every and --keep say"),
    "training.demo.*": Ignore("no demo here has such a setting", unlike_ours=True),
    # LoRAW
    "lora": _ADAPTERS,
    "model.lora": _ADAPTERS,
    "training.lora": _ADAPTERS,
    # video to audio
    "fps": _VIDEO_RATE,
    "video_fps": _VIDEO_RATE,
    "model.diffusion.input_add_ids": _INPUT_ADD,
    "model.diffusion.input_add_dims": _INPUT_ADD,
    "model.diffusion.config.input_add_ids": _INPUT_ADD,
    "model.diffusion.config.input_add_dims": _INPUT_ADD,
    "model.diffusion.config.input_add_dim": _INPUT_ADD,
    "model.diffusion.config.rotary_cond_emb": Refuse(
        "it gives the conditioning tokens of cross-attention rotary positions, which they do not have here",
        OFF,
        essential=True,
    ),
}
"""Path with `*` for any one key or index -> what becomes of the key."""
