"""Kind `diffae`: encode, then decode by diffusion in four v-DDIM steps."""

from __future__ import annotations

from typing import Any

import torch

from stable_audio.factory import create_model_from_config
from tests.golden.harness import Case, Replay, load_strict


def run(case: Case) -> dict[str, Any]:
    # The lengths of the inputs have nothing to do with the sample_size of the file.
    model = create_model_from_config(case.config, skip_rules=("sample_size",)).eval()
    load_strict(model, case.weights())
    with torch.no_grad():
        latents = model.encode(case.inputs["audio"], noise=_draws(case, "enc_noise"))
        decoded = model.decode(latents, noise=Replay([case.inputs["noise"]]), steps=4)
    return {"z": latents, "y": decoded}


def _draws(case: Case, name: str) -> Replay | None:
    return Replay([case.inputs[name]]) if name in case.inputs else None
