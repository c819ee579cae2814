"""What would fit, where a fine-tune does not: each way by itself, by the plan of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from stable_audio.config import ModelConfig
from stable_audio.inference.memory.reserve import readable_size
from stable_audio.training.memory_plan.changes import RANK, advice, cheapest
from stable_audio.training.memory_plan.choice import Choice
from stable_audio.training.memory_plan.plan import Planner, TrainingPlan

SHORTEST_SECONDS = 1.0
"""Of the clips that a way proposes."""


@dataclass(frozen=True)
class Way:
    """A way to fine-tune that fits.

    Attributes:
        words: what to do.
        plan: its plan.
    """

    words: str
    plan: TrainingPlan

    @property
    def line(self) -> str:
        """The way, with what it takes."""
        return f"{self.words}: about {readable_size(self.plan.total)}"


def lines(plan: TrainingPlan, ways: Sequence[Way]) -> Iterator[str]:
    """What one clip takes, and the ways, for the report."""
    assert plan.device_bytes is not None
    yield (
        f"memory       {readable_size(plan.total)} planned for one clip, of "
        f"{readable_size(plan.device_bytes)} that can be used: {plan.in_words()}"
    )
    for number, text in enumerate([way.line for way in ways] or ["nothing that the plan knows"]):
        yield f"{'' if number else 'what fits':<13}{text}"


def sentence(ways: Sequence[Way]) -> str:
    """The best way, and that there are others."""
    if not ways:
        return "nothing that the plan knows fits: use a smaller model"
    others = ", or another way listed above" if len(ways) > 1 else ""
    return f"what fits is {ways[0].line}{others}"


def ways_that_fit(
    config: ModelConfig, plan: TrainingPlan, *, adapter_base: str | None, length_multiple: int
) -> Iterator[Way]:
    """Ways to fine-tune that fit the device, the best first: the same weights with other settings, an adapter
    in place of all weights, shorter clips.

    Args:
        config: the model file, with its training section.
        plan: of one clip, with the memory that can be used.
        adapter_base: what the model under an adapter is held in on this device; None: as it is.
        length_multiple: samples of which lengths of clips are multiples.
    """
    assert plan.device_bytes is not None
    if plan.device_bytes <= plan.parts["reserve"]:
        return  # not even the libraries fit
    planner = Planner(config, device=plan.device, texts_read=config.training.cache_text is not None)
    starts = {"": plan.choice}
    if plan.choice.accum_batches > 1:
        starts["--batch-size 1, "] = replace(plan.choice, accum_batches=1)
    for prefix, choice in starts.items():
        found = _cheapest(planner, choice, plan.device_bytes)
        if found is not None:
            yield Way(prefix + _by(choice, found.choice), found)
            break
    if plan.choice.rank is None:
        yield from _adapter(planner, plan, adapter_base)
    yield from shorter_clips(config, plan, length_multiple)


def _cheapest(planner: Planner, choice: Choice, room: int) -> TrainingPlan | None:
    plan = planner.plan(choice, device_bytes=room)
    return plan if plan.fits else cheapest(planner, plan, adapters=False)


def _adapter(planner: Planner, plan: TrainingPlan, base: str | None) -> Iterator[Way]:
    none = {"optimizer": None, "releases": False, "average": "none"}
    choice = replace(plan.choice, rank=RANK, base_precision=base, checkpointing=True, **none)  # type: ignore[arg-type]
    assert plan.device_bytes is not None
    found = _cheapest(planner, choice, plan.device_bytes)
    if found is not None:
        changes = _by(choice, found.choice)
        yield Way("--adapter lora in place of --full" + (f", {changes}" if changes else ""), found)


def shorter_clips(config: ModelConfig, plan: TrainingPlan, multiple: int) -> Iterator[Way]:
    """Clips of half, a quarter, ... of the length, the longest that fit; see `ways_that_fit`."""
    assert plan.device_bytes is not None
    if plan.total - plan.parts["activations"] > plan.device_bytes:
        return  # no length is short enough
    size = config.sample_size // 2
    while size >= max(multiple, SHORTEST_SECONDS * config.sample_rate):
        samples = size // multiple * multiple
        read = config.training.cache_text is not None
        planner = Planner(config, device=plan.device, sample_size=samples, texts_read=read)
        found = planner.plan(plan.choice, device_bytes=plan.device_bytes)
        if found.fits:
            yield Way(f"--seconds {samples / config.sample_rate:.4g}, shorter clips", found)
            return
        size //= 2


def _by(before: Choice, after: Choice) -> str:
    """The changes, those of the model file apart from those that the command has a flag for."""
    changes = list(advice(before, after))
    flags = [change for change in changes if change.startswith("--")]
    keys = [change for change in changes if not change.startswith("--")]
    told = f"in model.json {' and '.join(keys)}" if keys else ""
    return ", ".join([*flags, *([told] if told else [])])
