"""What `stable-audio generate` prints about its clips."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from stable_audio.inference.rendering.render import Rendered


def report(rendered: Iterable[Rendered], total: int) -> list[Rendered]:
    """Print a line for each clip once it is there, and a summary; returns the clips."""
    started, sound, skipped, clipped = time.perf_counter(), 0.0, 0, 0
    clips: list[Rendered] = []
    for number, item in enumerate(rendered, start=1):
        clips.append(item)
        print(_line(item, number, total), flush=True)
        skipped, clipped = skipped + item.skipped, clipped + item.clipped
        sound += 0.0 if item.skipped else item.seconds
    took = time.perf_counter() - started
    summary = f"{total - skipped} rendered, {skipped} already there, {clipped} clipped"
    if sound > 0:
        summary += f"; {sound:.1f} s of sound in {took:.1f} s, real-time factor {sound / took:.2f}"
    print(summary)
    return clips


def _line(item: Rendered, number: int, total: int) -> str:
    if item.skipped:
        return f"[{number}/{total}] {item.path}: already there"
    flag = ", CLIPPED" if item.clipped else ""
    peak = f"peak {item.peak:.2f}{flag}"
    return (
        f"[{number}/{total}] {item.path}: {item.seconds:g} s, {peak}, {item.real_time_factor:.2f} x real time"
    )


def show_progress(step: int, steps: int) -> None:
    """Show the step of sampling on a terminal."""
    print(f"\rstep {step}/{steps} ", end="\n" if step >= steps else "", file=sys.stderr, flush=True)
