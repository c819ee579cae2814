"""Training step of a published DiT on a GPU: straightforward, ours, ours compiled, and the bound.

python benchmarks/gpu_training.py [--batch 8 --frames 1024 --modes plain,eager,compiled,fp8,fp8-rowwise]

plain: every layer recomputed, the graph searched for unused parameters, one Python loop over the parameters
for the average, the loss read in every step. eager: DiffusionTraining as a run uses it. compiled: the same
with --compile; compiled whole: the backbone in one piece, not by blocks (not by default). fp8, fp8-rowwise:
compiled with --precision fp8-mixed, fp8-rowwise-mixed (not by default), on GPUs that have it. to bound: time
over that of the backbone's matrix products and attention alone, in bfloat16. MFU: counted operations of the
model, recomputation left out, over the data sheet's rate in bfloat16. planned: what `stable-audio check` says
of the memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from dataclasses import replace
from typing import Any

import torch
from common import bound_step, matmul_rate, print_table
from gpu_common import card, parser, peak_of_card, published_model
from torch.utils.flop_counter import FlopCounterMode
from training_steps import STEPS, Setup, Step

from stable_audio.training.devices.float8 import check_float8
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions

DIT = argparse.Namespace(dim=1536, depth=24, heads=24, channels=64, context=130)
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
    print(f"bf16 matrix product: {rate / 1e12:.0f} TFLOP/s; data sheet {peak / 1e12:.0f}\n")
    modes = [mode for mode in args.modes.split(",") if runs_here(mode)]
    for batch in args.batch:
        flops = batch * counted_flops(args)
        setup = Setup(args.config, batch, args.frames, args.device)
        products = bound_step(DIT, items=batch, tokens=args.frames + 1, place=setup.place)
        bound = seconds_of(products, args)
        rows = []
        for mode in modes:
            torch.cuda.empty_cache()
            torch._dynamo.reset()  # else what was compiled for one batch size is made for any
            try:
                rows.append(measure(args, mode, setup, flops, bound, peak))
            except torch.OutOfMemoryError as error:
                print(f"{mode}, batch {batch}: {str(error).splitlines()[0]}")
                continue
            print_table(HEAD, rows)  # at once, since the next one may run out of time


def measure(
    args: argparse.Namespace, mode: str, setup: Setup, flops: float, bound: float, peak: float
) -> tuple[Any, ...]:
    started = time.perf_counter()
    if mode in FLOAT8_MODES:
        step, planned = STEPS["compiled"](replace(setup, precision=FLOAT8_MODES[mode]))
    else:
        step, planned = STEPS[mode](setup)
    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - started
    torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(step, args)
    waits = host_waits(step)
    used = torch.cuda.max_memory_allocated() / 2**30
    share = 100 * flops / seconds / peak
    return (
        setup.batch,
        mode,
        1e3 * seconds,
        1 / seconds,
        share,
        seconds / bound,
        waits,
        used,
        planned / 2**30,
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
BY_DEFAULT = ("plain", "eager", "compiled", "fp8")


def counted_flops(args: argparse.Namespace) -> float:
    """Operations of forward and backward for one item, counted on shapes."""
    model, _ = published_model(argparse.Namespace(**{**vars(args), "device": "meta"}))
    x = torch.empty(1, 64, args.frames, device="meta")
    cond = model.wiring(model.conditioner([{}], torch.device("meta")))
    counter = FlopCounterMode(display=False)
    with counter:
        model.backbone(x, torch.empty(1, device="meta"), cond).sum().backward()
    return float(counter.get_total_flops())


def seconds_of(step: Step, args: argparse.Namespace) -> float:
    """Median seconds of a step in a queue of three, as a run queues them."""
    for _ in range(2):
        step()
    times = []
    for _ in range(args.rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(3):
            step()
        torch.cuda.synchronize()
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
    made.add_argument("--modes", default=",".join(BY_DEFAULT))
    return made.parse_args()


if __name__ == "__main__":
    main()
