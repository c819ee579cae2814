"""Kind of golden case -> function (case) -> {output name: value}. One file per kind or family of kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.golden.harness import Case
from tests.golden.kinds import (
    adapters,
    adp,
    ae,
    bott,
    cond,
    cond_text,
    dau1d,
    diffae,
    disc,
    dit,
    dit3,
    pipe,
    pipe3,
    pre,
    samplers,
    smp3,
    train3_math,
    train_losses,
    train_math,
    train_step,
    train_step3,
    train_step_ae,
)

KINDS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "adp": adp.run,
    "ae": ae.run,
    "bott": bott.run,
    "diffae": diffae.run,
    "disc": disc.run,
    "train_losses": train_losses.run,
    "train_step_ae": train_step_ae.run,
    "pre": pre.run,
    "cond": cond.run,
    "cond_text": cond_text.run,
    "dau1d": dau1d.run,
    "dit": dit.run,
    "dit3": dit3.run,
    "inpaint_mask": train3_math.run_inpaint_mask,
    "lora": adapters.run_model,
    "lora_file": adapters.run_file,
    "lora_layer": adapters.run_layer,
    "loss3": train3_math.run_loss3,
    "ot": train3_math.run_ot,
    "padding": train3_math.run_padding,
    "shift": smp3.run_shift,
    "smp": samplers.run,
    "smp3": smp3.run_smp3,
    "train": train_math.run,
    "train_step": train_step.run,
    "train_step3": train_step3.run,
    "pipe": pipe.run,
    "pipe3": pipe3.run,
}
