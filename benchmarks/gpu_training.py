"""Training step of a published DiT on a GPU: straightforward, ours, ours compiled, and the bound.

python benchmarks/gpu_training.py [--batch 8 --frames 1024 --modes compiled eager fp8 plain --config FILE]

plain: every layer recomputed, the graph searched for unused parameters, one Python loop over the parameters
for the average, the loss read in every step. eager: DiffusionTraining as a run uses it. compiled: the same
with --compile; "compiled whole": the backbone in one piece, not by blocks (not by default). fp8, fp8-rowwise:
compiled with --precision fp8-mixed, fp8-rowwise-mixed (not by default), on GPUs that have it. to bound: time
over that of the matrix products and attention alone, in bfloat16, of Stable Audio Open 1.0. MFU: counted
operations of the model, recomputation left out, over the data sheet's rate in bfloat16. planned: what
`stable-audio plan` says of the memory of the eager step, text encoder and libraries left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import bound_step, matmul_rate, print_table, synchronise
from gpu_common import OPEN, card, parser, peak_of_card
from training_steps import STEPS, Setup, Step

from stable_audio.training.devices.float8 import check_float8
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions

BOUNDS = {OPEN: argparse.Namespace(dim=1536, depth=24, heads=24, channels=64, context=130)}
"""Model file -> sizes of its products and attention."""

HEAD = (
    *("batch", "", "ms", "steps/s", "MFU %", "to bound"),
    *("host waits", "peak GiB", "planned GiB", "first s"),
)


def main() -> None:
    args = parse()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    print(f"{card(args.device)}; {args.config}; {args.frames} frames, bf16-mixed, AdamW, average")
    rate = matmul_rate(args.device, torch.bfloat16, size=args.matmul)
    peak = peak_of_card(args.device) or rate
    print(f"bf16 matrix product: {rate / 1e12:.0f} TFLOP/s; data sheet {peak / 1e12:.0f}\n", flush=True)
    modes = [mode for mode in args.modes if runs_here(mode)]
    for batch in args.batch:
        expected = expected_of(Setup(args.config, batch, args.frames, args.device), peak, args.rounds)
        rows = []
        for mode in modes:
            if expected.is_on_gpu:
                torch.cuda.empty_cache()
            torch._dynamo.reset()  # else what was compiled for one batch size is made for any
            try:
                rows.append(measure(mode, expected))
            except torch.OutOfMemoryError as error:
                print(f"{mode}, batch {batch}: {str(error).splitlines()[0]}")
                continue
            print_table(HEAD, rows)  # at once, since the next one may run out of time
            print(flush=True)


@dataclass(frozen=True)
class Expected:
    """What the steps of a batch are compared with.

    Attributes:
        setup: of the steps.
        rounds: timed ones; the median counts.
        shortest: seconds of a step whose operations run at the data sheet's rate.
        bound: seconds of the matrix products and attention alone; None: not known for this model.
        memory: bytes that are planned.
    """

    setup: Setup
    rounds: int
    shortest: float
    bound: float | None
    memory: int

    @property
    def is_on_gpu(self) -> bool:
        return self.setup.device.startswith("cuda")


def expected_of(setup: Setup, peak: float, rounds: int) -> Expected:
    """The comparisons for a setup, with `peak` operations per second of the card."""
    plan = setup.plan()
    sizes, bound = BOUNDS.get(str(setup.config)), None
    if sizes is not None:
        products = bound_step(sizes, items=setup.batch, tokens=setup.frames + 1, place=setup.place)
        bound = seconds_of(products, setup.device, rounds)
    return Expected(setup, rounds, plan.operations.model / peak, bound, plan.without_libraries)


def measure(mode: str, expected: Expected) -> tuple[Any, ...]:
    """A row of the table."""
    setup, started = expected.setup, time.perf_counter()
    if mode in FLOAT8_MODES:
        step = STEPS["compiled"](replace(setup, precision=FLOAT8_MODES[mode]))
    else:
        step = STEPS[mode](setup)
    step()
    synchronise(setup.device)
    first = time.perf_counter() - started
    if expected.is_on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(step, setup.device, expected.rounds)
    return (
        setup.batch,
        mode,
        1e3 * seconds,
        1 / seconds,
        100 * expected.shortest / seconds,
        "" if expected.bound is None else seconds / expected.bound,
        host_waits(step) if expected.is_on_gpu else "",
        torch.cuda.max_memory_allocated() / 2**30 if expected.is_on_gpu else "",
        "" if mode == "plain" else expected.memory / 2**30,
        first,
    )


def runs_here(mode: str) -> bool:
    """Whether this machine can run a mode; says why it cannot."""
    if mode not in FLOAT8_MODES:
        return True
    try:
        check_float8(RunOptions(precision=FLOAT8_MODES[mode]))
    except (TrainingError, ImportError) as error:
        print(f"{mode}: {error}")
        return False
    return True


FLOAT8_MODES = {"fp8": "fp8-mixed", "fp8-rowwise": "fp8-rowwise-mixed"}
BY_DEFAULT = ["compiled", "eager", "fp8", "plain"]
"""The goals' first, since time may run out."""


def seconds_of(step: Step, device: str, rounds: int) -> float:
    """Median seconds of a step in a queue of three, as a run queues them."""
    for _ in range(2):
        step()
    times = []
    for _ in range(rounds):
        synchronise(device)
        started = time.perf_counter()
        for _ in range(3):
            step()
        synchronise(device)
        times.append((time.perf_counter() - started) / 3)
    return statistics.median(times)


def host_waits(step: Step) -> int:
    """How often one step makes the host wait for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = {f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)}
    if places:
        print("host waits:", ", ".join(sorted(places)))
    return sum("synchroniz" in str(w.message) for w in caught)


def parse() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--batch", type=int, nargs="+", default=[8])
    made.add_argument("--frames", type=int, default=1024)
    made.add_argument("--matmul", type=int, default=8192, help="size of the product that is timed first")
    modes = [*STEPS, *FLOAT8_MODES]
    made.add_argument("--modes", nargs="+", choices=modes, default=BY_DEFAULT)
    return made.parse_args()


if __name__ == "__main__":
    main()
