"""Kind `smp`: samplers on a toy model, schedules and scalings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Output
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.sampling import sample
from stable_audio.diffusion.schedules import build_schedule
from stable_audio.diffusion.shift import DistributionShift
from stable_audio.diffusion.spaces import FLOW, VE, VP
from tests.golden.harness import Case, Replay

_SETTINGS = ("steps", "sigma_min", "sigma_max", "rho")


def run(case: Case) -> dict[str, Any]:
    """Outputs of every call, or of the schedules when the case has no model."""
    if "poly" in case.calls or not (case.spec.get("config") or {}).get("model"):
        return _schedules(case)
    state = case.weights()
    found: dict[str, Any] = {}
    for name, call in case.calls.items():
        found.update(_sampled(name, call, case, state))
    return found


def toy(state: dict[str, Tensor]) -> Callable[[Tensor, Tensor], Output]:
    """v(x, t) = W x cos(1.3 t + 0.2) + 0.3 tanh(x + b) sin(2 t); its unconditional twin is 0.7 v + 0.1."""
    weight, bias = state["W"], state["b"].view(1, -1, 1)

    def predict(x: Tensor, t: Tensor) -> Output:
        t = t.view(-1, 1, 1)
        mixed = torch.einsum("ij,bjn->bin", weight, x)
        value = mixed * torch.cos(1.3 * t + 0.2) + 0.3 * torch.tanh(x + bias) * torch.sin(2 * t)
        return Output(value, 0.7 * value + 0.1)

    return predict


# call -> (objective, sampler unless the call names one, schedule unless it is that of the sampler)
_FUNCTIONS: dict[str, tuple[str, str | None, str | None]] = {
    "sample_k": ("v", None, None),
    "sample": ("v", "v-ddim", "linear"),
    "sample_rf": ("rectified_flow", None, None),
    "sample_discrete_euler": ("rectified_flow", "euler", "linear"),
    "sample_rk4": ("rectified_flow", "rk4", "linear"),
    "sample_flow_dpmpp": ("rectified_flow", "dpmpp", "linear"),
    "sample_flow_pingpong": ("rectified_flow", "pingpong", "linear"),
}


def _sampled(name: str, call: dict[str, Any], case: Case, state: dict[str, Tensor]) -> dict[str, Any]:
    objective, sampler, schedule = _FUNCTIONS[call["fn"]]
    kwargs = dict(call["kwargs"])
    sampler = kwargs.pop("sampler_type", sampler)
    init = case.inputs["init"] if kwargs.pop("init", False) else None
    trace: list[Tensor] = []
    traced = kwargs.pop("trace", False)
    shift = kwargs.pop("dist_shift", None)
    if call["fn"] == "sample_rf" and sampler != "rk4":
        shift = None  # the reference walks its log-SNR schedule without the shift
    levels = kwargs.pop("sigmas", None)
    settings = {k: kwargs.pop(k) for k in _SETTINGS if k in kwargs}
    settings.setdefault("sigma_max", 100.0 if call["fn"] == "sample_k" else 1.0)
    x = sample(
        toy(state),
        case.inputs["noise"],
        objective=OBJECTIVES[objective](),
        noise=Replay(case.inputs["steps_noise"]),
        sampler=sampler,
        schedule=torch.tensor(levels) if levels is not None else schedule,
        shift=DistributionShift(**shift) if shift else None,
        init=init,
        callback=lambda info: trace.append(info.denoised),
        options=kwargs,
        **settings,
    )
    return {name: x, **({f"{name}.denoised": torch.stack(trace)} if traced else {})}


def _schedules(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, entry in case.calls.get("poly", {}).items():
        settings = {k: entry[k] for k in ("sigma_min", "sigma_max", "rho")}
        found[f"poly.{key}"] = build_schedule("polyexponential", entry["n"], space=VE, **settings)
    for key, entry in case.calls.get("ds", {}).items():
        shift = DistributionShift(**entry["init"])
        for length in entry["lens"]:
            found[f"ds.{key}.{length}"] = shift(case.inputs["t"], length)
    for steps, start in case.calls.get("logsnr", []):
        found[f"rf_t.{steps}.{start}"] = build_schedule("logsnr", steps, space=FLOW, sigma_max=start)
    if "t" in case.inputs:
        alpha, sigma = OBJECTIVES["v"]().alpha_sigma(case.inputs["t"])
        back = [VP.level(a, s) for a, s in zip(alpha.tolist(), sigma.tolist())]
        found.update(alpha=alpha, sigma=sigma, t_back=back)
    if "sig" in case.inputs:
        found.update(_v_scalings(case.inputs["sig"]))
    return found


def _v_scalings(sigmas: Tensor) -> dict[str, Any]:
    """The preconditioning that the VE to VP adapter and the v objective amount to."""
    objective = OBJECTIVES["v"]()
    one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    rows = []
    for sigma in sigmas.tolist():
        t_value = VE.convert(sigma, VP)
        c_in = VP.scale(t_value) / VE.scale(sigma)
        t = torch.tensor([t_value])
        skip = objective.denoised(zero, one * c_in, t)
        out = objective.denoised(one, zero, t)
        rows.append((float(skip), float(out), c_in, t_value))
        assert math.isfinite(c_in)
    names = ("vd.c_skip", "vd.c_out", "vd.c_in", "vd.t")
    return {name: torch.tensor(column) for name, column in zip(names, zip(*rows))}
