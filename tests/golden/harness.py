"""Reads golden cases: a JSON file that describes inputs and calls, and a safetensors file with numbers.

The format is described in tests/golden/README.md. `Case` knows the format, not the features; what a
kind of case means is in tests/golden/kinds.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

HERE = Path(__file__).parent
CASES = Path(os.environ.get("STABLE_AUDIO_GOLDEN", HERE / "cases"))
MANIFESTS = HERE / "manifests"


# (kind, output) whose inputs the case does not hold. The discrepancy itself is checked by the `bott` kind.
NOT_REPRODUCIBLE = {("train_losses", "mmd")}


@dataclass(frozen=True)
class Case:
    """One golden case."""

    path: Path

    @cached_property
    def spec(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        file = self.path.with_suffix(".safetensors")
        return load_file(str(file)) if file.exists() else {}

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def kind(self) -> str:
        return self.spec["kind"]

    @property
    def config(self) -> dict[str, Any]:
        """A fresh copy, so that a builder that changes its input cannot spoil the case."""
        return json.loads(json.dumps(self.spec["config"]))

    @property
    def calls(self) -> Any:
        return self.spec.get("calls") or {}

    @property
    def extra(self) -> dict[str, Any]:
        return self.spec.get("extra") or {}

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under `prefix.`, without the prefix."""
        start = prefix + "."
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.group("in")

    def weights(self) -> dict[str, Tensor]:
        """The whole state: formula weights and the stored state, under the checkpoint keys."""
        spec = self.spec.get("weights") or {}
        state = {k: filled(k, spec["seed"], *v) for k, v in spec.get("fill", {}).items()}
        state.update(self.group("sd"))
        return state

    def expected(self) -> dict[str, tuple[Tensor, float]]:
        """{output name: (value, atol)}."""
        stored, rounding = self.group("out"), self.float16_rounding()
        return {
            name: (stored[name], max(float(entry[2]), rounding.get(name, 0.0)))
            for name, entry in self.spec["outputs"].items()
        }

    def float16_rounding(self) -> dict[str, float]:
        """{output of a float16 text encoder: how far two right computations of it may be apart}.

        Processors round the sums of a float16 product at other places. Each result is about as far from the
        float32 one as the stored result is, so two of them differ by at most twice that distance; the
        projection multiplies it by the largest sum of a row's absolute weights.
        """
        stored = self.group("out")
        if "fp16_hidden" not in stored:
            return {}
        hidden = 2 * (stored["fp16_hidden"].double() - stored["fp32_hidden"].double()).abs().max().item()
        ids = [entry["id"] for entry in self.config["conditioning"]["configs"]]
        gains = {
            id_: self.weights()[f"conditioners.{id_}.proj_out.weight"].abs().sum(dim=1).max().item()
            for id_ in ids
        }
        return {"fp16_hidden": hidden, **{f"{id_}.emb": hidden * gain for id_, gain in gains.items()}}


def filled(key: str, seed: int, shape: Sequence[int], offset: float, scale: float) -> Tensor:
    """float16(offset + scale * z) as float32, z drawn from a generator seeded by the key's CRC."""
    rng = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    z = rng.standard_normal(int(np.prod(shape)))
    return torch.from_numpy((offset + scale * z).astype(np.float16).astype(np.float32).reshape(shape))


def all_cases() -> list[Case]:
    return [Case(p) for p in sorted(CASES.glob("*.json"))]


def compare(case: Case, found: dict[str, Any]) -> list[str]:
    """One line for every expected output that is missing or differs."""
    problems = []
    for name, (value, atol) in case.expected().items():
        if name not in found and (case.kind, name) in NOT_REPRODUCIBLE:
            continue
        if name not in found:
            problems.append(f"{name}: not computed")
            continue
        got = torch.as_tensor(found[name]).detach().to(value.dtype)
        if got.shape != value.shape:
            problems.append(f"{name}: shape {tuple(got.shape)}, expected {tuple(value.shape)}")
        elif value.numel() and not (error := (got.double() - value.double()).abs().max().item()) <= atol:
            problems.append(f"{name}: error {error:.3g} > atol {atol:.3g}")
    return problems


class Replay:
    """A source of randomness that hands out stored draws in order, so that a run can be repeated exactly."""

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self._draws = list(draws)
        self._next = 0

    def __call__(self, like: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        draw = self._draws[self._next]
        self._next += 1
        return draw if like is None else draw.to(like).expand_as(like)


def load_strict(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load `state`; every key of both sides must be used."""
    module.load_state_dict(state, strict=True)
