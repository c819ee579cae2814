"""Teach the General MIDI model an instrument that it has never heard from 20 notes, and measure the result.

    python examples/general_midi_new_program.py --ckpt-path runs/general_midi

The model and the folder of its notes are those of docs/examples/general_midi.md. FluidSynth renders the new
instrument as it rendered the others; `stable-audio finetune` learns from 20 notes with captions.
Classifiers that have learned all nine instruments from recorded notes alone hear what the model answers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from finetuning import run_command
from general_midi import (
    PROGRAMS,
    Note,
    add_rendering_options,
    captioned_notes,
    clips,
    with_soundfont,
    write,
    write_others,
)
from general_midi_judge import Listener, back, recordings
from torch import Tensor

from stable_audio import generate, load_model
from stable_audio.adapters import AdapterUse, read_adapter, with_adapters
from stable_audio.audio.json_files import write_json
from stable_audio.evaluation.instruments import InstrumentClassifier, InstrumentPanel, learn_panel
from stable_audio.inference.devices import best_device

KINDS = ("lora", "dora-rows")
LESSON = 20
SPREAD = 10.0
"""dB by which levels are shifted while the classifiers learn. With 3, as in general_midi_judge.py, they name
all recorded notes right as well, but fewer of the known instruments after the autoencoder."""

KEPT = 384
NEW, OTHERS = "notes", "others"
"""Folders of the new instrument: notes that are asked for, and notes that the classifier learns from."""


def lesson(notes: Sequence[Note]) -> list[Note]:
    """LESSON notes at pitches from the lowest to the highest, in each loudness in turn."""
    pitches = sorted({note.pitch for note in notes})
    chosen = [pitches[round(i * (len(pitches) - 1) / (LESSON - 1))] for i in range(LESSON)]
    words = list(dict.fromkeys(note.loudness for note in notes))
    by_place = {(note.pitch, note.loudness): note for note in notes}
    return [by_place[pitch, words[i % len(words)]] for i, pitch in enumerate(chosen)]


def render(instrument: str, program: int, options: argparse.Namespace) -> None:
    """Write all notes of the instrument, those of the lesson once more, and those for the classifier."""
    notes = captioned_notes(instrument, options)
    taught = lesson(notes)
    for note, clip in clips(program, notes, options):
        write(note, clip, options.out / NEW, options.sample_rate)
        if note in taught:
            write(note, clip, options.out / "sounds", options.sample_rate)
    write_others(program, instrument, options, options.out / OTHERS)


def write_kept_prompts(path: Path, data: Path) -> None:
    """KEPT captions of the notes that the model was trained on, as JSON lines."""
    captions = [file.read_text().strip() for file in sorted((data / "train").glob("*.txt"))]
    if not captions:
        sys.exit(f"no captions in {data / 'train'}: python examples/general_midi.py writes them")
    chosen = [captions[i * len(captions) // KEPT] for i in range(KEPT)]
    path.write_text("".join(json.dumps({"prompt": caption}) + "\n" for caption in chosen))


def train(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run the command once for each kind; returns the seconds that each took."""
    costs = {}
    for kind in args.kinds:
        words = ["finetune", "--from", str(args.ckpt_path), "--data", str(args.out / "sounds")]
        words += ["--out", str(args.out / kind), "--keep", str(args.out / "keep.jsonl")]
        words += ["--keep-clips", str(KEPT), *(["--full"] if kind == "full" else ["--adapter", kind])]
        costs[kind] = run_command([*words, "--overwrite", *args.more])
    return costs


def learn(folders: Sequence[Path], sample_rate: int) -> InstrumentPanel:
    """Classifiers of the recorded notes of all instruments, none of which is asked for."""
    notes = [r for folder in folders for r in recordings(folder / OTHERS, sample_rate)]
    sounds, names = [r.samples for r in notes], [r.instrument for r in notes]
    return learn_panel(sounds, names, sample_rate=sample_rate, spread=SPREAD)


class NewProgramJudge:
    """Asks a model for the new instrument, and for the notes of the others in `val`.

    Args:
        data: the folder of the General MIDI example.
        new: the folder of the new instrument.
        instrument: its name.
        classifier: names the instruments of notes.
    """

    def __init__(
        self, data: Path, new: Path, instrument: str, classifier: InstrumentClassifier | InstrumentPanel
    ) -> None:
        taught = {file.stem for file in (new / "sounds").glob("*.wav")}
        asked = recordings(new / NEW, classifier.sample_rate)
        stems = [file.stem for file in sorted((new / NEW).glob("*.wav"))]
        self.instrument = instrument
        self.groups = {
            "taught": Listener(classifier, [r for r, stem in zip(asked, stems) if stem in taught]),
            "untaught": Listener(classifier, [r for r, stem in zip(asked, stems) if stem not in taught]),
            "old": Listener(classifier, recordings(data / "val", classifier.sample_rate)),
        }

    def hear(self, label: str, sounds: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Shares of right instruments and pitches in each group, and how many old ones are heard as the new.

        Args:
            label: whose sounds they are.
            sounds: of each group, clips (n,).
        """
        heard = {name: group.hear(f"{label}: {name}", sounds[name]) for name, group in self.groups.items()}
        taken = sum(clip["heard_as"] == self.instrument for clip in heard["old"]["per_clip"])
        return {**heard, "taken": taken}

    def answers(self, model: Any, **sampling: Any) -> dict[str, list[Any]]:
        """What the model makes of the captions, from noise that only the number of the note decides."""
        return {name: _arrays(self._rendered(model, name, **sampling)) for name in self.groups}

    def differing(self, model: Any, other: Any, *, count: int = 8, **sampling: Any) -> int:
        """How many of the first `count` notes of each group two models answer not bit for bit alike."""
        return sum(
            not torch.equal(one, two)
            for name in self.groups
            for one, two in zip(*(self._rendered(m, name, count=count, **sampling) for m in (model, other)))
        )

    def _rendered(self, model: Any, name: str, *, count: int | None = None, **sampling: Any) -> Tensor:
        metadata = [{"prompt": note.caption} for note in self.groups[name].asked[:count]]
        return generate(model, metadata, seeds=0, batch_size=42, **sampling)


def _arrays(clips: Tensor) -> list[Any]:
    return list(clips[:, 0].double().cpu().numpy())


def judge(args: argparse.Namespace, costs: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A row for recorded notes, for the autoencoder alone, for the model as it was, and for each kind."""
    device = best_device()
    base: Any = load_model(args.ckpt_path, device=device)[0]
    classifier = learn([args.data, args.out], base.sample_rate)
    judge = NewProgramJudge(args.data, args.out, args.instrument, classifier)
    sampling = {"steps": args.sampling_steps, "cfg_scale": args.cfg_scale}
    recorded = {name: [r.samples for r in group.asked] for name, group in judge.groups.items()}
    decoded = {name: _arrays(back(base, group.asked)) for name, group in judge.groups.items()}
    rows = [
        {"kind": "recorded", **judge.hear("recorded", recorded)},
        {"kind": "the autoencoder alone", **judge.hear("autoencoder", decoded)},
        {"kind": "before", **judge.hear("before", judge.answers(base, **sampling))},
    ]
    for kind in args.kinds:
        trained = args.out / kind / "last.safetensors"
        model, off = base, None
        if kind == "full":
            model = load_model(trained, device=device)[0]
        else:
            adapter = read_adapter(trained)
            model = with_adapters(base, [AdapterUse(adapter=adapter)])
            silent = with_adapters(base, [AdapterUse(adapter=adapter, strength=0.0)])
            off = judge.differing(base, silent, **sampling)
        scores = judge.hear(kind, judge.answers(model, **sampling))
        size = trained.stat().st_size / 1e6
        rows.append(
            {"kind": kind, "megabytes": size, "differing_when_off": off, **costs.get(kind, {}), **scores}
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table in Markdown."""
    head = ("", "file", "processor", "new: taught", "new: others", "new pitch", "old", "old pitch", "off")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        off = r.get("differing_when_off")
        new = [clip["pitch"] for name in ("taught", "untaught") for clip in r[name]["per_clip"]]
        cells = [
            r["kind"],
            f"{r['megabytes']:.1f} MB" if "megabytes" in r else "",
            f"{r['processor_seconds']:.0f} s" if "processor_seconds" in r else "",
            *(f"{r[name]['instrument']:.0%}" for name in ("taught", "untaught")),
            f"{sum(new) / len(new):.0%}",
            f"{r['old']['instrument']:.1%}",
            f"{r['old']['pitch']:.0%}",
            "" if off is None else "bit-equal" if off == 0 else f"{off} differ",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt-path", required=True, help="the model: runs/general_midi")
    parser.add_argument(
        "--data", type=Path, default=Path("data/general_midi"), help="its notes (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/new_program"), help="folder (%(default)s)")
    parser.add_argument("--instrument", default="synth brass", help="its name in the captions (%(default)s)")
    parser.add_argument(
        "--program", type=int, default=62, help="its General MIDI program, from 0 (%(default)s)"
    )
    parser.add_argument(
        "--kinds", nargs="+", default=KINDS, help=f"adapter types, or full ({' '.join(KINDS)})"
    )
    parser.add_argument("--cfg-scale", type=float, default=1.5, help="guidance weight (%(default)s)")
    parser.add_argument("--sampling-steps", type=int, default=24, help="of each answer (%(default)s)")
    parser.add_argument("--only-judge", action="store_true", help="the runs are there already")
    parser.add_argument("more", nargs="*", help="further arguments of stable-audio finetune, after --")
    add_rendering_options(parser)
    args = parser.parse_args(argv)
    if args.instrument in PROGRAMS or args.program in PROGRAMS.values():
        parser.error(f"{args.instrument} (program {args.program}) is one that the model was trained on")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    costs = {}
    if not args.only_judge:
        render(args.instrument, args.program, with_soundfont(args))
        write_kept_prompts(args.out / "keep.jsonl", args.data)
        costs = train(args)
    rows = judge(args, costs)
    write_json(args.out / "figures.json", {"rows": rows})
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
