"""Teach the quickstart's model a timbre that it has never heard; measure what it learned and what it kept.

    make demo                        # the model, once
    python examples/finetuning.py    # an adapter of two kinds and a full fine-tune, and one table of them

The sounds are 24 captioned notes of a harmonium. Every kind is trained by one command, `stable-audio
finetune`, and judged by the listener of the quickstart, which knows rendered sounds and no model.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "runs" / "demo" / "quickstart" / "last.safetensors"
KINDS = ("lora", "dora-rows", "full")
KEPT = 96


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt-path", type=Path, default=CHECKPOINT, help="the model (that of make demo)")
    parser.add_argument("--out", type=Path, default=Path("runs/finetuning"), help="folder (%(default)s)")
    parser.add_argument(
        "--kinds", nargs="+", default=KINDS, help=f"adapter types, or full ({' '.join(KINDS)})"
    )
    parser.add_argument(
        "--every", type=int, default=1, help="of the old sounds, judge every N-th (%(default)s)"
    )
    parser.add_argument("--only-judge", action="store_true", help="the runs are there already")
    parser.add_argument("more", nargs="*", help="further arguments of stable-audio finetune, after --")
    args = parser.parse_args(argv)
    if not args.ckpt_path.exists():
        print(f"{args.ckpt_path} is not there; make demo trains it, or give --ckpt-path", file=sys.stderr)
        return 2
    costs = {} if args.only_judge else train_all(args)
    rows = judge_all(args, costs)
    (args.out / "figures.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(table(rows))
    return 0


def train_all(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Write the sounds, and run the command once for each kind; returns the seconds that each took."""
    from stable_audio.evaluation.new_timbre import write_kept_prompts, write_lesson
    from stable_audio.evaluation.quickstart import QuickstartEvaluator

    write_lesson(args.out / "sounds")
    write_kept_prompts(
        args.out / "keep.jsonl", QuickstartEvaluator(sample_rate=22050, sample_size=27648), KEPT
    )
    costs = {}
    for kind in args.kinds:
        words = ["finetune", "--from", str(args.ckpt_path), "--data", str(args.out / "sounds")]
        words += ["--out", str(args.out / kind), "--keep", str(args.out / "keep.jsonl")]
        words += ["--keep-clips", str(KEPT), *(["--full"] if kind == "full" else ["--adapter", kind])]
        words += ["--prompt", "a bell, note C4", "--overwrite", *args.more]
        costs[kind] = run_command(words)
    return costs


def run_command(words: list[str]) -> dict[str, float]:
    """Run `stable-audio` with these words; returns the seconds of the clock and of the processor."""
    print(f"$ stable-audio {shlex.join(words)}", flush=True)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "stable_audio", *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.monotonic() - began, "processor_seconds": processor}


def judge_all(args: argparse.Namespace, costs: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A row for the model as it was, and one for each kind."""
    from stable_audio import load_model
    from stable_audio.adapters import AdapterUse, read_adapter, with_adapters
    from stable_audio.evaluation.new_timbre import TimbreJudge

    base: Any = load_model(args.ckpt_path)[0]
    judge = TimbreJudge(sample_rate=base.sample_rate, sample_size=base.sample_size, step=args.every)
    rows = [row("before", judge.judge(base), args.ckpt_path, {}, None)]
    print(table(rows), flush=True)
    for kind in args.kinds:
        trained = args.out / kind / "last.safetensors"
        if kind == "full":
            model, differing = load_model(trained)[0], None
        else:
            adapter = read_adapter(trained)
            model = with_adapters(base, [AdapterUse(adapter=adapter)])
            off = with_adapters(base, [AdapterUse(adapter=adapter, strength=0.0)])
            differing = judge.differing(base, off)
        rows.append(row(kind, judge.judge(model), trained, costs.get(kind, {}), differing))
        print(table(rows[-1:]), flush=True)
    return rows


def row(kind: str, scores: Any, file: Path, cost: dict[str, float], differing: int | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "megabytes": file.stat().st_size / 1e6,
        "differing_when_off": differing,
        **cost,
        **scores.as_dict(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table in Markdown."""
    head = (
        "",
        "file",
        "time",
        "processor",
        "new timbre",
        "new pitch",
        "unheard pitches",
        "old timbre",
        "old pitch",
    )
    lines = ["| " + " | ".join((*head, "off")) + " |", "|" + "---|" * (len(head) + 1)]
    for r in rows:
        off = r["differing_when_off"]
        cells = [
            r["kind"],
            f"{r['megabytes']:.1f} MB",
            f"{r['seconds']:.0f} s" if "seconds" in r else "",
            f"{r['processor_seconds']:.0f} s" if "processor_seconds" in r else "",
            f"{r['new']['timbre']:.0%}",
            f"{r['new']['pitch']:.0%}",
            f"{r['unheard']['timbre']:.0%}",
            f"{r['old']['timbre']:.0%}",
            f"{r['old']['pitch']:.0%}",
            "" if off is None else "bit-equal" if off == 0 else f"{off} differ",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
