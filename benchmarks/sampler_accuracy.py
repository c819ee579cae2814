"""Errors of every sampler against a solution in 1000 steps, over the number of evaluations.

python -m benchmarks.sampler_accuracy --results accuracy.json     (the mixture; a minute of one CPU core)
python -m benchmarks.sampler_accuracy --results accuracy.json --ckpt-path runs/quickstart     (the model)
python -m benchmarks.sampler_accuracy --results accuracy.json --write     (the page and its picture)

On a mixture of Gaussians with a known score, and on the latents of a trained model with guidance. Samplers
with fresh noise have no path to compare; on the mixture their distance to its distribution is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.mixture import Mixture, sliced_distance
from benchmarks.sampler_accuracy_page import write_page
from stable_audio import load_model
from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import OBJECTIVES, Objective
from stable_audio.diffusion.samplers import SAMPLERS, SamplerSpec
from stable_audio.diffusion.sampling import sample
from stable_audio.diffusion.spaces import VE

BUDGETS = (4, 8, 16, 32, 64)
TOLERANCES = (1.0, 0.3, 0.05, 0.01)
"""Of the adaptive sampler, in place of a budget."""
STOCHASTIC = ("ddpm", "dpmpp-2m-sde", "dpmpp-3m-sde", "k-dpmpp-2s-ancestral", "pingpong")
CFGPP = ("v-ddim-cfgpp", "euler-cfgpp")
"""Without guidance these are ddim and euler; with it they solve another equation."""
SAME = ("v-ddim",)
"""Second names."""
SCHEDULES = {
    "ve": ("polyexponential", "karras", "linear"),
    "vp": ("linear", "logsnr"),
    "flow": ("logsnr", "linear", "cosine"),
}
PROMPTS = ("a sawtooth wave playing A3", "a bell, note C4", "a marimba at B4", "a crash cymbal")

Network = Callable[[Tensor, Tensor], Any]


@dataclass
class Problem:
    """Something to sample.

    Attributes:
        name: its name in the results.
        objective: what `network` predicts.
        network: (x, t) -> output.
        noise: (b c n) to start from.
        evaluations: calls of the network since they were last set to 0.
    """

    name: str
    objective: Objective
    network: Network
    noise: Tensor
    evaluations: int = 0

    def __call__(self, x: Tensor, t: Tensor) -> Any:
        self.evaluations += 1
        return self.network(x, t)

    def solve(self, sampler: str, **settings: Any) -> Tensor:
        self.evaluations = 0
        return sample(
            self,
            self.noise,
            objective=self.objective,
            noise=SeededNoise(range(len(self.noise))),
            sampler=sampler,
            **settings,
        )


def mixture_problem(count: int) -> Problem:
    mixture, objective = Mixture.random(), OBJECTIVES["rectified_flow"]()
    noise = SeededNoise(range(count))(torch.empty(count, mixture.means.shape[1], 1))
    return Problem("mixture", objective, mixture.network(objective), noise)


def model_problem(path: str, cfg_scale: float) -> Problem:
    """Latents of a few prompts, guided."""
    model, _ = load_model(path)
    items = [{"prompt": p, "seconds_total": model.sample_size / model.sample_rate} for p in PROMPTS]
    guidance = Guidance(model.backbone, model.objective, model.condition(items), cfg_scale=cfg_scale)
    noise = SeededNoise(range(len(items)))(torch.empty(len(items), *model.latent_shape))
    return Problem("model", model.objective, guidance, noise)


def settings_of(spec: SamplerSpec, schedule: str, budget: int) -> dict[str, Any]:
    """Steps that take at most `budget` evaluations; methods of two save one in the last step."""
    steps = (budget + 1) // 2 if spec.evaluations == 2 else max(1, budget // spec.evaluations)
    settings: dict[str, Any] = {"schedule": schedule, "steps": steps}
    if schedule == "karras":
        settings |= {"rho": 7.0, "sigma_min": 0.02, "sigma_max": 100.0}
    elif spec.space is VE and schedule != "polyexponential":
        settings["sigma_max"] = 0.99  # pure noise has no place in the VE space
    return settings


def runs(problem: Problem) -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """(sampler, schedule, budget or tolerance, settings) of every deterministic solution."""
    skipped = {*STOCHASTIC, *SAME, *CFGPP}
    for name, spec in SAMPLERS.items():
        if name in skipped:
            continue
        if spec.one_by_one:
            for tolerance in TOLERANCES:
                yield name, spec.schedule, tolerance, {"options": {"rtol": tolerance, "atol": tolerance}}
            continue
        for schedule in SCHEDULES[spec.space.name]:
            for budget in BUDGETS:
                yield name, schedule, budget, settings_of(spec, schedule, budget)


def measure(problem: Problem) -> dict[str, Any]:
    """Relative errors: the root mean square of the difference over that of the solution, median of items."""
    began = time.monotonic()
    reference = problem.solve("rk4" if problem.name == "mixture" else "heun", schedule="linear", steps=1000)
    scale = rms(reference)
    errors: list[dict[str, Any]] = []
    for sampler, schedule, budget, settings in runs(problem):
        found = problem.solve(sampler, **settings)
        errors.append(
            {
                "sampler": sampler,
                "schedule": schedule,
                "budget": budget,
                "evaluations": problem.evaluations,
                "error": float((rms(found - reference) / scale).median()),
            }
        )
    print(f"{problem.name}: {len(errors)} solutions in {time.monotonic() - began:.0f} s")
    return {"errors": errors}


def measure_distribution(problem: Problem, mixture: Mixture) -> list[dict[str, Any]]:
    """Distances of samples to the mixture, by default schedules; the first is that of other exact samples."""
    count = len(problem.noise)
    exact = mixture.samples(count)
    rows = [{"sampler": "", "budget": 0, "distance": sliced_distance(mixture.samples(count, seed=9), exact)}]
    for name, spec in SAMPLERS.items():
        for budget in () if spec.one_by_one or name in SAME else BUDGETS:
            found = problem.solve(name, **settings_of(spec, spec.schedule, budget))
            rows.append({"sampler": name, "budget": budget, "distance": sliced_distance(found, exact)})
    return rows


def rms(values: Tensor) -> Tensor:
    """(b ...) -> (b,)."""
    return values.flatten(1).square().mean(1).sqrt()


def rounded(value: Any) -> Any:
    """Floats to four digits, so that the file of results stays small."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) and math.isfinite(value) else value


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, metavar="FILE", help="JSON of the figures")
    parser.add_argument("--ckpt-path", help="measure this model; without, the mixture")
    parser.add_argument("--cfg-scale", type=float, default=1.5, help="of the model")
    parser.add_argument("--samples", type=int, default=2048, help="of the mixture")
    parser.add_argument("--write", action="store_true", help="write page and picture from the figures")
    args = parser.parse_args()
    results: dict[str, Any] = json.loads(args.results.read_text()) if args.results.exists() else {}
    if args.write:
        write_page(results)
        return
    if args.ckpt_path:
        results["model"] = measure(model_problem(args.ckpt_path, args.cfg_scale))
    else:
        problem = mixture_problem(args.samples)
        distances = measure_distribution(problem, Mixture.random())
        results["mixture"] = {**measure(problem), "distances": distances}
    args.results.write_text(json.dumps(rounded(results)))


if __name__ == "__main__":
    main()
