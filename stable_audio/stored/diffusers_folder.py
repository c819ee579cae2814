"""Folders in the layout of Hugging Face diffusers: where their weights are."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = "diffusion_pytorch_model"
"""How the files of a network's weights begin."""

INDEX = "model_index.json"
"""The file that tells what a pipeline's folder has."""


def diffusers_weights(folder: Path) -> Path | None:
    """A file of weights that stands for a pipeline or a network; None if the folder is neither."""
    places = [folder, folder / "transformer"] if (folder / INDEX).is_file() else [folder]
    for place in places:
        if (place / "config.json").is_file() and (files := sorted(place.glob(f"{WEIGHTS}*.safetensors"))):
            return files[0]
    return None


def is_diffusers(path: Path) -> bool:
    """Whether a file of weights is a network of diffusers, which keeps its settings beside it."""
    return path.name.startswith(WEIGHTS) and path.with_name("config.json").is_file()
