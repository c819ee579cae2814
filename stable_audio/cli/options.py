"""Options that several commands have, so that one thing has one name; earlier names still work."""

from __future__ import annotations

from typing import Any

DTYPES = ("float32", "float16", "bfloat16")


def add_out(parser: Any, *earlier: str, help: str, **options: Any) -> None:
    """`--out`: where a command writes.

    Args:
        earlier: other names that the option had.
    """
    parser.add_argument("--out", "-o", "--output-path", *earlier, metavar="FOLDER", help=help, **options)


def add_device(parser: Any) -> None:
    """`--device`: where a model runs; see `best_device`."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto: the best there is")


def add_no_ema(parser: Any, *earlier: str, dest: str = "no_ema", action: str = "store_true") -> None:
    """`--no-ema`: the weights as trained, where a file also has their average.

    Args:
        earlier: other names that the option had.
    """
    parser.add_argument(
        "--no-ema", *earlier, dest=dest, action=action, help="the weights as trained, not their average"
    )


def add_dtype(parser: Any, *, help: str, choices: tuple[str, ...] = DTYPES) -> None:
    """`--dtype`: the type of weights, or of what is written."""
    parser.add_argument("--dtype", choices=choices, help=help)


def add_matmul_precision(parser: Any) -> None:
    """`--matmul-precision`: of float32 products on a GPU."""
    parser.add_argument(
        "--matmul-precision",
        default="high",
        choices=["highest", "high", "medium"],
        help="of float32 products on a GPU (%(default)s: TF32)",
    )


def best_device(asked: str) -> str:
    """`auto` -> cuda, mps or cpu.

    Raises:
        ValueError: there is no such device here.
    """
    import torch

    if asked != "auto":
        _refuse_absent(asked)
        return asked
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _refuse_absent(asked: str) -> None:
    import torch

    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ValueError(f"--device: 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps', found '{asked}'") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(f"--device {asked}: there is no such device here; leave it out to use what there is")
