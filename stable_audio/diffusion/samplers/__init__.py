"""Samplers by name. Each works with every objective; `space` is the path along which it steps."""

from __future__ import annotations

from stable_audio.diffusion.samplers.base import SamplerCallback, SamplerSpec, StepInfo
from stable_audio.diffusion.samplers.ddim import ddim, ddim_cfgpp
from stable_audio.diffusion.samplers.ddpm import ddpm
from stable_audio.diffusion.samplers.dpm_solver import dpm_adaptive, dpm_fast
from stable_audio.diffusion.samplers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s_ancestral, dpmpp_3m_sde
from stable_audio.diffusion.samplers.flow import euler, euler_cfgpp, flow_dpmpp, flow_heun, pingpong, rk4
from stable_audio.diffusion.samplers.karras import dpm_2, heun, lms
from stable_audio.diffusion.samplers.unipc import unipc, unipc_ve
from stable_audio.diffusion.spaces import FLOW, VE, VP

SAMPLERS: dict[str, SamplerSpec] = {
    "ddim": SamplerSpec(ddim, VP, "linear", "DDIM; plain and robust", step_schedule="ddim"),
    "v-ddim": SamplerSpec(ddim, VP, "linear", "the same by another name", step_schedule="ddim"),
    "ddpm": SamplerSpec(
        ddpm, VP, "linear", "ancestral sampling with fresh noise; for all steps", step_schedule="trailing"
    ),
    "v-ddim-cfgpp": SamplerSpec(ddim_cfgpp, VP, "linear", "DDIM with CFG++; for small cfg_scale (1 to 2)"),
    "dpmpp-2m": SamplerSpec(
        dpmpp_2m, VE, "polyexponential", "second order, deterministic, good from 20 steps"
    ),
    "dpmpp-2m-sde": SamplerSpec(dpmpp_2m_sde, VE, "polyexponential", "as dpmpp-2m, with fresh noise"),
    "dpmpp-3m-sde": SamplerSpec(
        dpmpp_3m_sde, VE, "polyexponential", "third order with fresh noise; 50 steps up"
    ),
    "k-heun": SamplerSpec(heun, VE, "polyexponential", "second order, two evaluations", evaluations=2),
    "k-lms": SamplerSpec(lms, VE, "polyexponential", "fourth-order multistep"),
    "k-dpm-2": SamplerSpec(dpm_2, VE, "polyexponential", "midpoint, two evaluations", evaluations=2),
    "k-dpmpp-2s-ancestral": SamplerSpec(
        dpmpp_2s_ancestral, VE, "polyexponential", "two evaluations and fresh noise", evaluations=2
    ),
    "k-dpm-fast": SamplerSpec(dpm_fast, VE, "polyexponential", "third order; steps = evaluations"),
    "k-dpm-adaptive": SamplerSpec(
        dpm_adaptive, VE, "polyexponential", "chooses its own steps by tolerance", one_by_one=True
    ),
    "euler": SamplerSpec(euler, FLOW, "logsnr", "straight steps; the usual choice for flows", per_item=True),
    "dpmpp": SamplerSpec(
        flow_dpmpp, FLOW, "logsnr", "DPM-Solver++(2M) for flows; good from 20 steps", per_item=True
    ),
    "unipc": SamplerSpec(unipc, FLOW, "linear", "corrected multistep for flows; 8 to 32 evaluations"),
    "k-unipc": SamplerSpec(unipc_ve, VE, "polyexponential", "as unipc, for v; 8 to 32 evaluations"),
    "heun": SamplerSpec(
        flow_heun, FLOW, "linear", "second order, two evaluations", evaluations=2, per_item=True
    ),
    "euler-cfgpp": SamplerSpec(
        euler_cfgpp, FLOW, "linear", "euler with CFG++; for small cfg_scale (1 to 2)", per_item=True
    ),
    "rk4": SamplerSpec(
        rk4, FLOW, "linear", "fourth order, four evaluations", shifts=True, evaluations=4, per_item=True
    ),
    "pingpong": SamplerSpec(
        pingpong, FLOW, "logsnr", "denoise and renoise; for rf_denoiser, 4 to 16 steps", per_item=True
    ),
}

__all__ = ["SAMPLERS", "SamplerCallback", "SamplerSpec", "StepInfo"]
