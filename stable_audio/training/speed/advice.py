"""What would make a run faster, from what its profile and its log lines say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stable_audio.inference.memory.operations import Operations
from stable_audio.training.speed.clock import PARTS


@dataclass(frozen=True)
class ProfileFacts:
    """What advice depends on.

    Attributes:
        columns: columns of log lines, as `speed_columns` gives them, with `speed/data_wait_share`.
        kinds: kind of operation -> share of the recorded time.
        device: type of the device.
        busy: share of the recorded time in which a GPU computed; 1 elsewhere.
        precision: Lightning's name.
        compiled: whether the networks are compiled.
        checkpointing: whether blocks recompute their activations.
        encodes: whether batches are sound that is encoded in every step.
        reads_texts: whether a frozen encoder reads each text again and again, which `cache_text` ends.
        averages: whether there is an average of the weights.
        batch_size: items per batch.
        operations: of a batch, if they are known.
    """

    columns: Mapping[str, float]
    kinds: Mapping[str, float]
    device: str
    busy: float = 1.0
    precision: str = "32-true"
    compiled: bool = False
    checkpointing: bool = False
    encodes: bool = False
    reads_texts: bool = False
    averages: bool = False
    batch_size: int = 1
    operations: Operations | None = None

    def part(self, name: str) -> float:
        """Share of a step that a part takes."""
        whole = sum(self.columns.get(f"speed/time_{part}", 0.0) for part in PARTS)
        return self.columns.get(f"speed/time_{name}", 0.0) / whole if whole else 0.0


def advice(facts: ProfileFacts) -> list[str]:
    """Sentences about what would help, the greatest gain first; none if nothing stands out."""
    found = [*_around_the_model(facts), *_in_the_model(facts), *_between_processes(facts)]
    return [sentence for _, sentence in sorted(found, key=lambda item: -item[0])]


def _around_the_model(facts: ProfileFacts) -> Iterator[tuple[float, str]]:
    waiting = facts.columns.get("speed/data_wait_share", facts.part("data"))
    if waiting > 0.1:
        yield (
            waiting,
            f"{waiting:.0%} of the time is waiting for data: raise --num-workers, or store the data on a "
            "faster disk" + (", or encode it once with `stable-audio encode`" if facts.encodes else ""),
        )
    if (share := facts.part("pretransform")) > 0.1:
        yield (
            share,
            f"{share:.0%} goes into encoding sounds that are the same in every epoch: encode them once with "
            "`stable-audio encode` and train with pre_encoded; or set cache_latents, if clips never change"
            + ("; encode_ahead encodes beside the step, if memory allows" if facts.device == "cuda" else ""),
        )
    if facts.reads_texts and (share := facts.part("conditioning")) > 0.1:
        yield share, f"{share:.0%} goes into conditioners: set cache_text, so that each text is read once"
    if (share := facts.columns.get("speed/padding_share", 0.0)) > 0.15:
        yield (
            share,
            f"{share:.0%} of the frames are padding, which is computed for nothing: store latents and set "
            "pack_length or bucket_lengths in the dataset file, or take a smaller sample_size",
        )
    if (share := facts.part("optimizer")) > 0.2:
        yield (
            share,
            f"{share:.0%} goes into optimizer and average: larger batches or --accum-batches take fewer "
            "steps for the same data" + ("; ema.update_every averages less often" if facts.averages else ""),
        )


def _in_the_model(facts: ProfileFacts) -> Iterator[tuple[float, str]]:
    on_gpu = facts.device == "cuda"
    if on_gpu and facts.busy < 0.8:
        yield (
            1 - facts.busy,
            f"the GPU computes {facts.busy:.0%} of the time and waits for the host otherwise: larger batches"
            + ("" if facts.compiled else ", or --compile, which queues fewer and larger pieces of work"),
        )
    small = sum(facts.kinds.get(kind, 0.0) for kind in ("elementwise", "norms", "copies and casts", "sums"))
    if on_gpu and small > 0.25 and not facts.compiled:
        yield small / 2, f"{small:.0%} goes into small operations around the products: --compile joins them"
    products = sum(facts.kinds.get(kind, 0.0) for kind in ("matrix products", "convolutions", "attention"))
    if on_gpu and facts.precision.startswith("32") and products > 0.4:
        yield (
            products / 2,
            f"{products:.0%} goes into products in float32: --precision bf16-mixed halves them",
        )
    if facts.checkpointing and facts.operations is not None and facts.operations.model:
        again = facts.operations.recomputed / facts.operations.model
        if again > 0.1:
            yield (
                again / (1 + again),
                f"gradient_checkpointing computes {again:.0%} more: leave it out if memory allows, or give "
                '"elementwise", which repeats hardly any product, or a number n: the first of every n blocks '
                "recompute then; `stable-audio plan` says what fits",
            )
    mfu = facts.columns.get("speed/mfu")
    if on_gpu and mfu is not None and mfu < 0.25 and facts.busy >= 0.8 and facts.batch_size < 8:
        yield 0.25 - mfu, f"products reach {mfu:.0%} of the card's rate: larger batches, if memory allows"


def _between_processes(facts: ProfileFacts) -> Iterator[tuple[float, str]]:
    lag = facts.columns.get("speed/slowest_process_lag", 0.0)
    if lag > 0.1:
        slowest = int(facts.columns["speed/slowest_process"])
        yield (
            lag,
            f"process {slowest} is behind the others by {lag:.0%} of a step, for which they wait: look at "
            "its machine, or give the processes batches of equal length",
        )
    share = facts.kinds.get("communication between processes", 0.0)
    if share > 0.2:
        yield (
            share / 2,
            f"{share:.0%} goes into communication between processes: --accum-batches exchanges gradients "
            "less often; --strategy ddp sends less than fsdp",
        )
