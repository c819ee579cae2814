"""Training step of a DiT on sound that its frozen autoencoder encodes: within the step, and ahead of it.

python benchmarks/encoding_ahead.py [--batch 4 --config model_configs/stable_audio/stable_audio_open_1_0.json]

latents: the same step on stored latents, which is the bound. in the step: the sound is encoded first. ahead:
"encode_ahead" encodes that of the next batch beside the step, on a GPU on a stream of its own. Three steps
are queued at a time, as a run queues them; --compile compiles backbone and encoder.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from common import peak_memory, print_table, time_together
from gpu_common import card, parser, published_model
from training_steps import Setup, Step, stepping

from stable_audio.nn.compiling import compile_network
from stable_audio.training.build import build_training
from stable_audio.training.devices.halved_encoder import choose_encoding
from stable_audio.training.diffusion.module import DiffusionTraining

QUEUED = 3


def main() -> None:
    args = parse()
    torch.manual_seed(0)
    setup = Setup(args.config, args.batch, 0, args.device, precision=args.precision)
    modules = {
        "latents": training(setup, pre_encoded=True),
        "in the step": training(setup),
        "ahead": training(setup, encode_ahead=True),
    }
    works = {name: queued(steps_of(module, setup, args)) for name, module in modules.items()}
    device = card(args.device) if args.device.startswith("cuda") else args.device
    precision = modules["in the step"].encoding_precision
    print(f"{device}; {args.config}; {args.batch} clips, {args.precision}, encoded in {precision}\n")
    seconds = time_together(works, rounds=args.rounds, device=args.device)
    rows = [
        (
            name,
            1e3 * seconds[name] / QUEUED,
            seconds[name] / seconds["latents"],
            seconds[name] / seconds["in the step"],
            peak_memory(work, args.device) / 2**30,
        )
        for name, work in works.items()
    ]
    print_table(("", "ms/step", "to bound", "to encoding in the step", "peak GiB"), rows)


def training(setup: Setup, **options: Any) -> DiffusionTraining:
    """The training of a run; its weights are small random numbers."""
    model, config = published_model(setup, use_ema=False, cfg_dropout_prob=0.1, **options)
    module = build_training(config, model, batch_size=setup.batch)
    assert isinstance(module, DiffusionTraining)
    choose_encoding(module, device=torch.device(setup.device).type, entry=None)
    return module.train()


def steps_of(module: DiffusionTraining, setup: Setup, args: Any) -> Step:
    """Steps on two batches in turn, each of which is what comes after the other."""
    model = module.model
    samples = args.samples or model.sample_size
    shape = model.latent_shape_of(samples) if module.pre_encoded else (model.audio_channels, samples)
    batches = [setup.on_host(0.1 * torch.randn(setup.batch, *shape)) for _ in range(2)]
    coming = itertools.cycle([batches[1], batches[0]])
    module.encode_ahead(lambda: next(coming))
    if args.compile:
        compile_network(model.backbone)
        if not module.pre_encoded:
            model.pretransform.model.encoder.compile()  # type: ignore[union-attr]
    return stepping(module, setup, itertools.cycle(batches))


def queued(step: Step) -> Step:
    def several() -> None:
        for _ in range(QUEUED):
            step()

    return several


def parse() -> Any:
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--samples", type=int, default=0, help="samples of a clip; 0: the model file's")
    made.add_argument("--precision", default="bf16-mixed", help="as of train --precision")
    made.add_argument("--compile", action="store_true")
    return made.parse_args()


if __name__ == "__main__":
    main()
