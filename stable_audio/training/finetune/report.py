"""Lines about what was decided: how the model is trained, what fits the memory, where the results are."""

from __future__ import annotations

from collections.abc import Callable

from stable_audio.inference.memory.reserve import readable_size
from stable_audio.nn.checkpointing import in_words
from stable_audio.training.callbacks.estimate import duration
from stable_audio.training.finetune.base_model import FinetuneBase
from stable_audio.training.finetune.comparing import PAGE_FOLDER
from stable_audio.training.finetune.fitting import Fit
from stable_audio.training.finetune.request import FinetuneRequest
from stable_audio.training.finetune.section import step_keys
from stable_audio.training.finetune.sizing import Size
from stable_audio.training.memory_plan.training_plan import NAMES
from stable_audio.wording import plural

Say = Callable[[str], None]
"""Takes one line of the report."""

SHOWN = 0.01
"""Least share of the memory of a part that the report names."""


def note_choices(base: FinetuneBase, size: Size, optimizer: str, request: FinetuneRequest, note: Say) -> None:
    """What is trained, for how long, and what may be forgotten.

    Args:
        base: the model.
        size: steps, clips per step and rates.
        optimizer: its name.
        request: what was asked for.
        note: takes each line.
    """
    _, source = step_keys(base.stored)
    what = (
        "the model itself" if request.adapter is None else f"an adapter, {request.adapter}, rank {size.rank}"
    )
    note(f"training     {what}; objective and noise levels as in {source}")
    note(
        f"             {plural(size.steps, 'step')} of {plural(size.batch, 'clip')}, {optimizer}, "
        f"learning rate {size.learning_rate:g}, rising for {plural(size.warm_up, 'step')}"
    )
    if request.keep is None and base.model.conditioner is not None:
        note("forgetting   other prompts may change as well; --keep FILE.jsonl names some that are not to")


def note_fit(fitted: Fit, size: Size, seconds: float, note: Say) -> None:
    """The memory and the time of the training.

    Args:
        fitted: the batch that fits, and its memory.
        size: steps of the training.
        seconds: of one step, measured.
        note: takes each line.
    """
    greatest = sorted(fitted.parts.items(), key=lambda part: -part[1])
    parts = [f"{NAMES[name]} {readable_size(n)}" for name, n in greatest if n >= SHOWN * fitted.total]
    planned, free = readable_size(fitted.total), readable_size(int(fitted.available))
    note(f"memory       about {planned} of {free}: {', '.join(parts)}")
    used = [f"{plural(fitted.micro_batch, 'clip')} at once"]
    used += [f"{fitted.accumulation} batches per step"] * (fitted.accumulation > 1)
    used += [recomputation] if (recomputation := in_words(fitted.layout.gradient_checkpointing)) else []
    used += [f"the model in {fitted.layout.base_precision}"] if fitted.layout.base_precision else []
    note(f"             {', '.join(used)}")
    note(f"time         {duration(seconds * size.steps)} of training ({seconds:.2f} s per step, measured)")


def note_results(request: FinetuneRequest, note: Say) -> None:
    """Where the results will be.

    Args:
        request: what was asked for.
        note: takes each line.
    """
    what = "the model" if request.adapter is None else "the adapter"
    pages = ["demos/index.html"] * request.demos + [f"{PAGE_FOLDER}/index.html"]
    note(f"results      in {request.folder}")
    note(f"             last.safetensors, {what}; to listen to: {' and '.join(pages)}")
