"""`training.inpainting` of a `diffusion_cond` file, whose training in stable-audio-tools is that of
`diffusion_cond_inpaint`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from stable_audio.conditioning.inpainting import INPAINT_IDS
from stable_audio.config.reporting.problems import Problem, json_path

_SECTION = json_path(("training", "inpainting"))


def inpainting_translated(data: dict[str, Any], extra_ids: Collection[str] = ()) -> Problem | None:
    """Make the file say what it asks for (`data` is changed in place); returns a warning of what was changed.

    A model whose backbone reads the inpainting ids becomes `diffusion_cond_inpaint`. For others the masks
    would reach nothing, so the section is left out.

    Args:
        extra_ids: ids that the caller supplies as tensors.
    """
    training = data.get("training")
    if data.get("model_type") != "diffusion_cond" or not isinstance(training, dict):
        return None
    if training.get("inpainting") is None:
        return None
    if set(INPAINT_IDS) & (_wired(data) - _conditioned(data) - set(extra_ids)):
        data["model_type"] = "diffusion_cond_inpaint"
        message = "'diffusion_cond' with training.inpainting is called 'diffusion_cond_inpaint' here"
        return Problem(json_path(("model_type",)), message)
    del training["inpainting"]
    return Problem(
        _SECTION, f"ignored: no slot of the backbone lists '{INPAINT_IDS[0]}', so nothing reads it"
    )


def _wired(data: dict[str, Any]) -> set[str]:
    """Every id that a list of `model.diffusion` names."""
    model = data.get("model")
    diffusion = model.get("diffusion") if isinstance(model, dict) else None
    lists = diffusion.values() if isinstance(diffusion, dict) else ()
    return {name for ids in lists if isinstance(ids, list) for name in ids if isinstance(name, str)}


def _conditioned(data: dict[str, Any]) -> set[str]:
    """Ids that a conditioner of the file reads."""
    conditioning = data["model"].get("conditioning") if isinstance(data.get("model"), dict) else None
    entries = conditioning.get("configs") if isinstance(conditioning, dict) else None
    entries = entries if isinstance(entries, list) else []
    return {e["id"] for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)}
