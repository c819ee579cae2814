"""Kind `pre`: pretransforms there and back."""

from __future__ import annotations

from typing import Any

import torch

from tests.golden.harness import Case, Replay, load_strict
from tests.pretransforms.building import build_pretransform


def run(case: Case) -> dict[str, Any]:
    pretransform = build_pretransform(case.config["pretransform"])
    load_strict(pretransform, case.weights())
    noise = Replay([case.inputs["noise"]]) if "noise" in case.inputs else None
    with torch.no_grad():
        z = pretransform.encode(case.inputs["x"], noise=noise)
        moved = 1.5 * z + 0.1 * z.roll(1, dims=1)
        return {"z": z, "y": pretransform.decode(z), "y2": pretransform.decode(moved)}
