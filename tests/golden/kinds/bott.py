"""Kind `bott`: bottlenecks alone."""

from __future__ import annotations

from typing import Any

import torch

from stable_audio.pretransforms import BOTTLENECKS
from tests.golden.harness import Case, Replay, load_strict

# Types whose reference keeps tokens as (b n q) and whose reference returns decoded tokens as (b n c).
TOKENS_LAST = ("rvq", "rvq_vae", "dithered_fsq")
CHANNELS_LAST = ("fsq", "dithered_fsq")


def run(case: Case) -> dict[str, Any]:
    spec = case.config["bottleneck"]
    bottleneck = BOTTLENECKS[spec["type"]](**spec.get("config", {}))
    load_strict(bottleneck, case.weights())
    bottleneck.train(case.spec.get("mode") == "train")
    inputs = case.inputs
    noise = Replay([inputs["noise"]]) if "noise" in inputs else None
    dec_noise = Replay([inputs["dec_noise"]]) if "dec_noise" in inputs else None
    with torch.no_grad():
        latents, info = bottleneck.encode(inputs["x"], noise=noise)
        out = {"latents": latents, "decoded": bottleneck.decode(inputs["z"], noise=dec_noise)}
        out.update({f"info.{k}": v for k, v in info.items()})
        if "tokens" in info:
            tokens = info["tokens"]
            out["info.codes"] = tokens
            out["info.quantizer_indices"] = tokens.mT if spec["type"] in TOKENS_LAST else tokens
            decoded = bottleneck.decode_tokens(tokens)
            out["from_tokens"] = decoded.mT if spec["type"] in CHANNELS_LAST else decoded
    return out
