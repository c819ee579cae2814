"""The folder layouts of Hugging Face diffusers: export to that of `StableAudioPipeline`; in `stable_audio_3`,
export to that of `StableAudio3Pipeline` and reading of it.

`tables` says how the layout treats every argument of the networks, `limits` refuses what it cannot hold, with
all reasons.
"""

from stable_audio.checkpoints.diffusers.limits import unsupported
from stable_audio.checkpoints.diffusers.pipeline import (
    export_diffusers,
    export_diffusers_autoencoder,
    export_diffusers_backbone,
    export_diffusers_part,
)

__all__ = [
    "export_diffusers",
    "export_diffusers_autoencoder",
    "export_diffusers_backbone",
    "export_diffusers_part",
    "unsupported",
]
