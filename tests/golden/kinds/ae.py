"""Kind `ae`: whole autoencoders, also in chunks."""

from __future__ import annotations

from typing import Any

import torch

from tests.golden.harness import Case, Replay, load_strict
from tests.pretransforms.building import build_autoencoder

TOKEN_NAMES = ("quantizer_indices", "codes")


def run(case: Case) -> dict[str, Any]:
    model = build_autoencoder(case.config["model"], case.config["sample_rate"])
    load_strict(model, case.weights())
    model.train(case.spec.get("mode") == "train")
    audio, z = case.inputs["audio"], case.inputs["z"]
    noise = Replay([case.inputs["noise"]]) if "noise" in case.inputs else None
    dec_noise = Replay([case.inputs["dec_noise"]]) if "dec_noise" in case.inputs else None
    with torch.no_grad():
        latents, info = model.encode_with_info(audio, noise=noise)
        out = {
            "latents": latents,
            "pre": info["pre_bottleneck_latents"],
            "decoded": model.decode(z, noise=dec_noise),
        }
        out.update({f"info.{k}": v for k, v in info.items()})
        if chunk := case.calls.get("chunk"):
            # The reference cuts hard at the seams.
            out["enc_chunked"] = model.encode_chunked(audio, crossfade=0, **chunk)
            out["dec_chunked"] = model.decode_chunked(z, crossfade=0, **chunk)
        out["enc_iterate"] = torch.cat([model.encode(a, noise=lambda like: like * 0) for a in audio.split(1)])
        out["dec_iterate"] = torch.cat([model.decode(item) for item in z.split(1)])
    return out
