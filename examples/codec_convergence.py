"""Trains the small 44.1 kHz autoencoders of model_configs/examples and prints how they converge.

    python examples/instruments_and_speech.py          # the sounds, once
    python examples/codec_convergence.py               # everything; --only vae stops there

A variational autoencoder; the same weights trained on with and without a discriminator, and with residual
(RVQ) and scalar (FSQ) quantisation at two bitrates each; twice the latent channels. Every run goes through
train.py and is measured on whole held-out clips by `stable-audio reconstruct`. What is finished is not
trained again, and a run that was cut off goes on. The tables are printed as Markdown and written to
OUT/convergence.md, the curves to OUT/convergence.png.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "model_configs" / "examples"
FIGURES = {"SI-SDR": "si_sdr", "STFT distance": "stft_distance", "mel distance": "mel_distance"}
VALIDATION = {"SI-SDR": "val/sisdr", "MR-STFT distance": "val/stft", "mel distance": "val/mel"}

Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training.

    Attributes:
        label: in the tables. config: file in model_configs/examples. change: applied to it first.
        start: name of the run whose weights it begins with; partial: with those that fit.
        quantizers: how many to keep, one measurement each; None measures all of them.
    """

    label: str
    config: str
    change: Callable[[Config], Config] = copy.deepcopy
    start: str | None = None
    partial: bool = False
    quantizers: Sequence[int | None] = (None,)


def without_discriminator(config: Config) -> Config:
    """The same number of steps of the autoencoder: it has every step, not every other one."""
    plain = copy.deepcopy(config)
    del plain["training"]["loss_configs"]["discriminator"]
    plain["training"]["max_steps"] //= 2
    return plain


def more_latents(config: Config) -> Config:
    """Twice the latent channels."""
    wide = copy.deepcopy(config)
    model = wide["model"]
    for part in ("encoder", "decoder"):
        model[part]["config"]["latent_dim"] *= 2
    model["latent_dim"] *= 2
    return wide


def fewer_levels(config: Config) -> Config:
    """FSQ at the lower bitrate: 4 codebooks of 5 channels with 4 levels, 40 bits a frame."""
    low = copy.deepcopy(config)
    low["model"]["bottleneck"]["config"].update(levels=[4] * 5, num_codebooks=4)
    return low


RUNS = {
    "vae": Run(label="VAE", config="vae_small_44k.json"),
    "vae_longer": Run(
        label="VAE, trained on without discriminator",
        config="vae_small_44k_adversarial.json",
        change=without_discriminator,
        start="vae",
    ),
    "vae_adversarial": Run(
        label="VAE, trained on with discriminator", config="vae_small_44k_adversarial.json", start="vae"
    ),
    # All but the quantiser and the layer before it is the same network, which need not be learned again.
    "rvq": Run(label="RVQ", config="rvq_small_44k.json", start="vae", partial=True, quantizers=(None, 4)),
    "rvq_from_scratch": Run(label="RVQ from scratch", config="rvq_small_44k.json", quantizers=(None, 4)),
    "fsq": Run(label="FSQ", config="fsq_small_44k.json", start="vae", partial=True),
    "fsq_low": Run(label="FSQ", config="fsq_small_44k.json", change=fewer_levels, start="vae", partial=True),
    "vae_wide": Run(label="VAE, 64 latent channels", config="vae_small_44k.json", change=more_latents),
}


def command(*arguments: str, capture: bool = False) -> str:
    """Run `python ARGUMENTS` in the repository; its failure ends the script."""
    print("\n$", " ".join(["python", *arguments]), flush=True)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE if capture else None
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def train(name: str, run: Run, options: argparse.Namespace) -> None:
    """Train `run` in OUT/NAME unless its last step is reached."""
    config = run.change(json.loads((CONFIGS / run.config).read_text()))
    config.pop("$schema", None)
    if options.steps_divided > 1:
        shorten(config, options.steps_divided)
    file = options.out / "configs" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config, indent=2))
    if (steps := last_step(options.out / name)) >= config["training"]["max_steps"]:
        print(f"{name}: {steps} steps are done")
        return
    given = ["--model-config", str(file), *data_arguments(options), "--val-every", str(options.val_every)]
    if run.start is not None and steps == 0:
        given += ["--pretrained-ckpt-path", str(options.out / run.start)]
        given += ["--partial"] if run.partial else []
    command("train.py", *given, "--save-dir", str(options.out), "--name", name, "--recover", "--no-demos")


def shorten(config: Config, divisor: int) -> None:
    """Divide the steps; the LR schedules follow: for a look at the whole in little time."""
    training = config["training"]
    training["max_steps"] = max(2, training["max_steps"] // divisor)
    training["warmup_steps"] = training.get("warmup_steps", 0) // divisor


def data_arguments(options: argparse.Namespace) -> list[str]:
    folder = ROOT / "dataset_configs"
    data = ["--dataset-config", str(folder / "instruments_and_speech.json")]
    validation = ["--val-dataset-config", str(folder / "instruments_and_speech_val.json")]
    return [*data, *validation, "--num-workers", str(options.num_workers)]


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv of a run; empty before its first step."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def last_step(folder: Path) -> int:
    """0 for a run that has not ended with an inference file."""
    steps = [int(row["step"]) for row in rows(folder)]
    return max(steps, default=0) if (folder / "last.safetensors").is_file() else 0


def bits_per_second(path: Path, quantizers: int | None) -> float | None:
    """Of the tokens; None where the latents are continuous."""
    from stable_audio import load_model

    model: Any = load_model(path)[0]
    if not model.is_discrete:
        return None
    bottleneck = model.bottleneck
    count = bottleneck.num_quantizers if quantizers is None else quantizers
    return model.sample_rate / model.downsampling_ratio * count * math.log2(bottleneck.codebook_size)


def measure(name: str, run: Run, options: argparse.Namespace) -> list[list[str]]:
    """Rows of the second table: figures over the whole held-out clips."""
    weights, found = options.out / name, []
    for quantizers in run.quantizers:
        some = [] if quantizers is None else ["--quantizers", str(quantizers)]
        held_out = str(ROOT / "data" / "instruments_and_speech" / "val")
        arguments = ["reconstruct", held_out, "--ckpt-path", str(weights), *some, "--json"]
        report = json.loads(command("-m", "stable_audio", *arguments, capture=True))
        rate = bits_per_second(weights, quantizers)
        cells = [f"{report[key]:.2f}" for key in FIGURES.values()]
        found.append([run.label, "" if rate is None else f"{rate / 1000:.1f}", *cells])
    return found


def curve(folder: Path) -> list[tuple[int, list[float]]]:
    """(step, figures in the order of VALIDATION) of each validation."""
    wanted = list(VALIDATION.values())
    return [
        (int(row["step"]), [float(row[key]) for key in wanted])
        for row in rows(folder)
        if all(row.get(key) for key in wanted)
    ]


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *lines])


def curve_table(names: Sequence[str], options: argparse.Namespace) -> str:
    """Figures over steps, one line per validation."""
    lines = [
        [RUNS[name].label + (", lower bitrate" if name == "fsq_low" else ""), str(step), *cells]
        for name in names
        for step, values in curve(options.out / name)
        for cells in [[f"{value:.2f}" for value in values]]
    ]
    return markdown(["run", "step", *VALIDATION], lines)


def draw(names: Sequence[str], path: Path, out: Path) -> None:
    """The curves of all runs, one panel per figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4))
    FigureCanvasAgg(figure)
    for i, title in enumerate(VALIDATION):
        axes = figure.add_subplot(1, len(VALIDATION), i + 1)
        for name in names:
            found = curve(out / name)
            axes.plot([s for s, _ in found], [v[i] for _, v in found], marker=".", label=name)
        axes.set_title(title + (" in dB" if title == "SI-SDR" else ""), fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/codecs"))
    parser.add_argument("--only", nargs="+", choices=list(RUNS), help="these runs; default: all")
    parser.add_argument("--val-every", type=int, default=500, help="steps (%(default)s)")
    parser.add_argument("--num-workers", type=int, default=0, help="data processes (%(default)s)")
    parser.add_argument("--steps-divided", type=int, default=1, help="by this; figures mean little then")
    return parser.parse_args()


def main() -> int:
    options = parse()
    options.out = options.out.resolve()
    names = options.only or list(RUNS)
    figures: list[list[str]] = []
    for name in names:
        train(name, RUNS[name], options)
        figures += measure(name, RUNS[name], options)
    whole = markdown(["run", "kbit/s", *FIGURES], figures)
    text = f"Validation crops:\n\n{curve_table(names, options)}\n\nWhole held-out clips:\n\n{whole}\n"
    print(f"\n{text}")
    (options.out / "convergence.md").write_text(text)
    draw(names, options.out / "convergence.png", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
