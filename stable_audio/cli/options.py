"""Options shared by several commands, under one name each; earlier names still work."""

from __future__ import annotations

from typing import Any

from stable_audio.cli.fields import add_field
from stable_audio.training.options import MATMUL_PRECISIONS, RunOptions

OR_PARTS_OR_HUB = ", or a checkpoint in parts (the folder step=N.shards), or a name on the Hugging Face hub"
"""End of the help of an option that takes a checkpoint."""

DTYPES = ("float32", "float16", "bfloat16")


def add_out(parser: Any, *earlier: str, help: str, **options: Any) -> None:
    """`--out`: where a command writes.

    Args:
        earlier: other names that the option had.
    """
    parser.add_argument("--out", "-o", "--output-path", *earlier, metavar="FOLDER", help=help, **options)


ADAPTER = "FILE_OR_RUN[:STRENGTH[:LOW-HIGH[:LAYERS]]]"
"""How an adapter is named; see `stable_audio.adapters.spec`."""


def add_adapter(parser: Any, *, help: str, dest: str = "adapter") -> None:
    """`--adapter`: trained changes of a model's weights, each with its strength."""
    parser.add_argument("--adapter", action="append", dest=dest, metavar=ADAPTER, help=help)


def add_any_base(parser: Any) -> None:
    """`--any-base`: take adapters of another model."""
    parser.add_argument(
        "--any-base",
        action="store_true",
        help="use adapters on a model other than the one that they were trained on",
    )


def add_device(parser: Any) -> None:
    """`--device`: where a model runs; see `stable_audio.inference.devices`."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps; auto: the best one available"
    )


def add_devices(parser: Any) -> None:
    """`--devices`: where a model runs in several processes; see `devices_named`."""
    parser.add_argument(
        "--devices",
        metavar="LIST",
        help="one process for each of these devices: cuda:0,cuda:1, a number of GPUs, or all",
    )


def add_no_ema(parser: Any, *earlier: str, dest: str = "no_ema", action: str = "store_true") -> None:
    """`--no-ema`: take the weights as trained where a file also has their moving average.

    Args:
        earlier: other names that the option had.
    """
    parser.add_argument(
        "--no-ema",
        *earlier,
        dest=dest,
        action=action,
        help="use the weights as trained, not their moving average",
    )


def add_lenient(parser: Any) -> None:
    """`--lenient`: load a model whose file has keys of other programs."""
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="leave out keys of the model file that are unknown or not supported, with a warning",
    )


def add_dtype(parser: Any, *, help: str, choices: tuple[str, ...] = DTYPES) -> None:
    """`--dtype`: the data type of weights or of written tensors."""
    parser.add_argument("--dtype", choices=choices, help=help)


RENDER_DTYPES = ("auto", *DTYPES, "int8", "int4")


def add_render_dtype(parser: Any) -> None:
    """`--dtype` of models that generate; see `stable_audio.inference.precision`."""
    add_dtype(
        parser,
        choices=RENDER_DTYPES,
        help="of the backbone's weights; auto: half precision on a CUDA device, and on CPUs where it is "
        "1.6 times as fast, else float32; int8 is for a CPU, int4 takes least memory (auto)",
    )


def add_matmul_precision(parser: Any) -> None:
    """`--matmul-precision`: precision of float32 matrix products on a GPU."""
    add_field(
        parser,
        RunOptions,
        "matmul_precision",
        choices=MATMUL_PRECISIONS,
        help="precision of float32 matrix products on a GPU (%(default)s: TF32)",
    )
