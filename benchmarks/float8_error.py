"""Error of a linear layer that trains in 8 bits, and in bfloat16, against float64.

python benchmarks/float8_error.py [--width 1536 --rows 1024 --outliers 0]

Normal inputs, weights and gradients of the output; of the inputs, `outliers` features are 30 times as large,
as some are in trained networks. Emulated, on any machine. Error: norm of the difference over that of the
exact product.
"""

from __future__ import annotations

import argparse

import torch
from common import print_table
from torch import Tensor, nn

from stable_audio.nn.float8 import compute_in_float8

OUTLIER = 30.0


def main() -> None:
    args = parse()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.rows, args.width, generator=generator)
    x[:, : args.outliers] *= OUTLIER
    weight = torch.randn(args.width, args.width, generator=generator) * args.width**-0.5
    gradient = torch.randn(args.rows, args.width, generator=generator)
    exact = products("float64", x.double(), weight.double(), gradient.double())
    rows = []
    for name in ("bfloat16", "tensorwise", "rowwise"):
        with torch.autocast("cpu", torch.bfloat16):
            found = products(name, x, weight, gradient)
        rows.append((name, *(float((a - b).norm() / b.norm()) for a, b in zip(found, exact))))
    print(f"{args.rows} x {args.width} times {args.width} x {args.width}, {args.outliers} outliers")
    print_table(("", "output", "gradient of x", "gradient of W"), rows)


def products(kind: str, x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """Output and both gradients of a layer in float64."""
    network = nn.Sequential(nn.Linear(*weight.T.shape, bias=False, dtype=x.dtype))
    with torch.no_grad():
        network[0].weight.copy_(weight)
    if kind in ("tensorwise", "rowwise"):
        compute_in_float8(network, [network[0]], scaling=kind, emulated=True)  # type: ignore[arg-type]
    x = x.clone().requires_grad_()
    out = network(x)
    out.backward(gradient.to(out.dtype))
    return [t.detach().double() for t in (out, x.grad, network[0].weight.grad)]  # type: ignore[union-attr]


def parse() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--width", type=int, default=1536)
    made.add_argument("--rows", type=int, default=1024)
    made.add_argument("--outliers", type=int, default=0, help="features of x that are much larger")
    return made.parse_args()


if __name__ == "__main__":
    main()
