"""Size, speed and error of weights in 8 or 4 bits on the CPU, for a U-Net and a DiT or for a trained model.

    python benchmarks/quantize.py                                 two small untrained backbones
    python benchmarks/quantize.py --checkpoint PATH [--config C]  the backbone of a checkpoint

The error is |quantised - float32| / |float32| of the output for random x and t. Times are medians of rounds
that take turns, so that a busy machine slows both alike.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import describe_machine, new_parser, print_table, time_together
from stable_audio.backbones import BACKBONES
from stable_audio.backbones.base import Backbone
from stable_audio.backbones.unet.attention_options import AttentionBlockOptions
from stable_audio.inference.quantize import Kernels, quantized, weight_bytes
from stable_audio.types import Conditioning, Slot


def examples() -> dict[str, Backbone]:
    """A U-Net and a DiT of some ten million parameters, for 64 channels."""
    torch.manual_seed(0)
    options = AttentionBlockOptions(head_dim=32)
    unet = BACKBONES["unet"](
        io_channels=64, channels=128, attention=[False, True, True], attention_options=options
    )
    dit = BACKBONES["dit"](io_channels=64, embed_dim=384, depth=6, num_heads=6)
    # Layers that start at zero would make both outputs zero.
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.02) if not parameter.any() else None
    return {"unet": unet, "dit": dit}


def conditioning(backbone: Backbone, batch: int, frames: int) -> Conditioning:
    """Random conditioning in every slot."""
    shapes = {
        Slot.CROSS_ATTN: lambda w: (batch, 16, w),
        Slot.PREPEND: lambda w: (batch, 4, w),
        Slot.GLOBAL: lambda w: (batch, w),
        Slot.INPUT_CONCAT: lambda w: (batch, w, frames),
    }
    widths = {slot: width or 1 for slot, width in backbone.slot_widths.items()}
    return Conditioning(**{s.field: torch.randn(shapes[s](w)) for s, w in widths.items()})


@torch.no_grad()
def row(name: str, backbone: Backbone, method: Kernels, frames: int, rounds: int) -> list[object]:
    small = quantized(backbone, method=method)
    original = backbone.float().eval()
    frames = -(-frames // backbone.length_multiple) * backbone.length_multiple
    x, t = torch.randn(1, backbone.io_channels, frames), torch.tensor([0.5])
    cond = conditioning(backbone, 1, frames)
    expected = original(x, t, cond)
    error = ((small(x, t, cond) - expected).norm() / expected.norm()).item()
    works = {"float32": lambda: original(x, t, cond), "int8": lambda: small(x, t, cond)}
    seconds = time_together(works, rounds=rounds, device="cpu")
    sizes = [weight_bytes(m) / 2**20 for m in (original, small)]
    times = [seconds["float32"] * 1e3, seconds["int8"] * 1e3]
    return [name, *sizes, *times, times[0] / times[1], error]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--checkpoint", help="file of a trained model; both examples without it")
    parser.add_argument("--config", help="its config, when the file has none")
    parser.add_argument("--method", default="torch", choices=("torch", "torchao", "int4"))
    parser.add_argument("--frames", type=int, default=256)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.checkpoint:
        import stable_audio

        model, _ = stable_audio.load_model(args.checkpoint, config=args.config)
        backbones = {Path(args.checkpoint).stem: model.backbone}
    else:
        backbones = examples()
    print(describe_machine("cpu", "float32"))
    header = ("backbone", "MiB float32", "MiB", "ms float32", "ms", "faster", "error")
    rows = [row(name, b, args.method, args.frames, args.rounds) for name, b in backbones.items()]
    print_table(header, rows)


if __name__ == "__main__":
    main()
