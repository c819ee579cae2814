"""What tests leave out of every run: it takes longer than the steps that they look at."""

from __future__ import annotations

import sys


def quicken() -> None:
    """Let the modules that this process has loaded start runs without a measurement of bfloat16, a plan of
    their memory and a look at 10,000 items of their dataset.

    `--dtype auto` and `--precision auto` are float32 then on every CPU. Tests of these themselves put back
    what they need.
    """
    for name in ("stable_audio.inference.precision", "stable_audio.training.starting.precision"):
        if name in sys.modules:
            vars(sys.modules[name])["bfloat16_gain"] = lambda *_, **__: 1.0
    if (summary := sys.modules.get("stable_audio.training.callbacks.summary")) is not None:
        vars(summary)["planned"] = lambda *_, **__: None
    if (foresight := sys.modules.get("stable_audio.data.foresight")) is not None:
        foresight.count_refusals.__kwdefaults__["most"] = 50
