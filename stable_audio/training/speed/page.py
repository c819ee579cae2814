"""One page in words about where the time of recorded steps went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stable_audio.training.speed.advice import ProfileFacts, advice
from stable_audio.training.speed.clock import PARTS
from stable_audio.training.speed.kinds import Cost, by_kind, kind_of
from stable_audio.wording import plural

NAMES = {
    "data": "waiting for a batch",
    "transfer": "moving it to the device",
    "conditioning": "conditioners",
    "pretransform": "encoding",
    "forward": "the model and its loss",
    "backward": "the backward pass",
    "optimizer": "clipping, optimizer and average",
    "other": "all else",
}
"""Part of a step -> what it is called on the page."""

LONGEST_LIST = 10
LEAST_SHARE = 0.01


def page(facts: ProfileFacts, costs: Sequence[Cost], *, steps: int, trace: str) -> str:
    """The page.

    Args:
        costs: own time of every operation in the recorded steps.
        steps: recorded steps.
        trace: name of the file with the trace.
    """
    return "\n".join([*_lines(facts, costs, steps, trace), ""])


def _lines(facts: ProfileFacts, costs: Sequence[Cost], steps: int, trace: str) -> Iterator[str]:
    recorded = sum(cost.seconds for cost in costs)
    yield f"Recorded: {plural(steps, 'step')} on {facts.device}, precision {facts.precision}."
    rate = facts.columns.get("speed/steps_per_second")
    if rate:
        yield f"A step takes {1 / rate:.4g} s; recording makes it slower than that."
    if "speed/mfu" in facts.columns:
        reached, share = facts.columns["speed/tflops"], facts.columns["speed/mfu"]
        yield f"The model computes {reached:.3g} TFLOP/s, {share:.0%} of what products reach here (MFU)."
    shares = [(facts.part(part), NAMES[part]) for part in PARTS]
    if any(share for share, _ in shares):
        yield from ("", "Parts of a step:")
        for share, name in sorted(shares, reverse=True):
            yield f"  {share:4.0%}  {name}"
    yield from ("", "Kinds of operations:")
    for cost in by_kind(costs):
        if cost.seconds >= LEAST_SHARE * recorded:
            yield f"  {cost.seconds / recorded:4.0%}  {cost.name} ({cost.calls / steps:.0f} per step)"
    yield from ("", "What costs most:")
    for cost in sorted(costs, key=lambda cost: -cost.seconds)[:LONGEST_LIST]:
        share, per_step = cost.seconds / max(recorded, 1e-9), 1e3 * cost.seconds / steps
        yield f"  {share:4.0%}  {cost.name}: {per_step:.3g} ms per step ({kind_of(cost.name)})"
    yield from ("", "What would help:")
    helps = advice(facts)
    yield from (f"  - {sentence}" for sentence in helps)
    if not helps:
        yield "  nothing stands out: the time goes into the model's own operations"
    yield from ("", f"Every operation is in {trace}: open it at https://ui.perfetto.dev or chrome://tracing.")
