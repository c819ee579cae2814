"""The benchmark scripts run and print their tables; what they print is not judged here."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_dit import PlainDiT
from stable_audio.backbones import DiT
from stable_audio.nn.attention import AttentionOptions
from stable_audio.types import Conditioning
from tests.benchmarks.scripts import FOLDER, run_script
from tests.training.worlds import free_port

SIZES = ["--depth", "1", "--dim", "32", "--heads", "2", "--frames", "16", "--rounds", "1"]


@pytest.mark.parametrize(
    ("script", "arguments", "rows"),
    [
        (
            "train_step",
            [*SIZES, "--device", "cpu", "--ways", "plain", "eager", "--sampling-steps", "1"],
            ["forward", "step with AdamW", "step, recomputing"]
            + ["plain step", "eager step", "bound step", "sampling"],
        ),
        pytest.param(  # tens of seconds
            "memory_levers",
            ["--depth", "1", "--dim", "32", "--frames", "8", "--steps", "3", "--only", "plain AdamW"],
            ["plain AdamW"],
            marks=pytest.mark.slow,
        ),
        (
            "inference",
            ["--only", "test", "--batch", "2", "--steps", "2", "--rounds", "1", "--device", "cpu"]
            + ["--ways", "plain", "ours", "bfloat16", "bound"],
            ["test"],
        ),
        (
            "adapters",
            [*SIZES, "--steps", "2", "--rank", "2", "--types", "lora", "bora"],
            ["base", "merged", "lora", "bora", "two", "three, gated"],
        ),
        pytest.param(  # four processes, one after the other
            "adapter_training",
            ["--depth", "1", "--dim", "32", "--frames", "8", "--steps", "2", "--rounds", "1"]
            + ["--rank", "2", "--types", "lora"],
            ["full", "full, averaged", "lora"],
            marks=pytest.mark.slow,
        ),
        ("float8_error", ["--width", "32", "--rows", "16"], ["bfloat16", "tensorwise", "rowwise"]),
        (
            "packing",
            [*SIZES, "--rows", "2"],
            ["padded", "buckets", "packed", "packed, a call per clip", "packed, padded groups", "bound"],
        ),
        pytest.param(  # tens of seconds
            "autoencoder",
            ["--channels", "2", "--seconds", "0.2", "--rounds", "1", "--device", "cpu"]
            + ["--overlaps", "8", "--lengths", "1", "--memory-channels", "2"],
            ["encode", "decode", "plain", "folded", "fast", "decode, overlap 8", "encode 1 s"],
            marks=pytest.mark.slow,
        ),
        pytest.param(  # with whole discriminators
            "autoencoder_train",
            ["--channels", "4", "--samples", "4096", "--rounds", "1", "--dtype", "bfloat16"],
            ["generator step", "discriminator step", "generator step, bfloat16"],
            marks=pytest.mark.slow,
        ),
        (
            "encoding_ahead",
            ["--config", "model_configs/quickstart/latent.json", "--batch", "1", "--rounds", "1"]
            + ["--precision", "32-true", "--device", "cpu"],
            ["latents", "in the step", "ahead"],
        ),
        (
            "gpu_kernels",
            ["--attention", "1x8x8", "1x8x3", "--modes", "--rounds", "1", "--device", "cpu"]
            + ["--heads", "2", "--head-width", "16"],
            ["1x8x8", "1x8x3"],
        ),
        (
            "gpu_training",
            [
                "--config",
                "model_configs/quickstart/latent.json",
                "--frames",
                "8",
                "--batch",
                "2",
                "--rounds",
                "1",
            ]
            + ["--matmul", "64", "--modes", "eager", "plain", "--device", "cpu"],
            ["2"],
        ),
        ("layers", ["--frames", "64", "--rounds", "1"], ["attention, fused", "snake, keeps x alone"]),
        pytest.param(  # so many processes, too
            "loading",
            ["--depth", "1", "--dim", "32", "--heads", "1", "--threads", "1"],
            ["model, without weights", "run, over random weights"],
            marks=pytest.mark.slow,
        ),
        ("watch", ["--runs", "2", "--steps", "50"], ["list of all runs", "every row of every run read"]),
        (
            "backbones",
            ["--frames", "32", "--batch", "1", "--rounds", "1", "--only", "dit", "mlp"],
            ["dit", "mlp"],
        ),
    ],
)
def test_prints_its_table(
    script: str,
    arguments: list[str],
    rows: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_script(script, arguments, monkeypatch)
    printed = capsys.readouterr().out
    table = {line.split("  ")[0] for line in printed.splitlines()}
    assert set(rows) <= table, printed


@pytest.mark.slow
def test_processes_are_runs_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    sizes = ["--depth", "1", "--dim", "64", "--frames", "8", "--steps", "3", "--only", "fsdp, 2"]
    test_prints_its_table("processes", sizes, ["fsdp, 2 processes"], monkeypatch, capsys)


def test_the_search_finds_parameters_that_the_loss_does_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    unreached = importlib.import_module("training_steps").unreached
    used, unused = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    loss = used(torch.ones(1, 2)).square().sum()
    assert unreached(loss, torch.nn.ModuleList([used, unused])) == set(unused.parameters())
    unused.requires_grad_(False)
    assert unreached(loss, torch.nn.ModuleList([used, unused])) == set()


def test_products_alone_are_called_as_often_as_in_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    products_alone = importlib.import_module("products").products_alone
    layers = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3), torch.nn.SiLU(), torch.nn.Conv1d(4, 2, 1))
    x = torch.randn(2, 3, 8)

    def counted(work: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    def step() -> None:
        layers(x).square().sum().backward()

    # 2 x 6 frames, 4 outputs of 3 x 3 inputs, then 2 of 4; again for the gradient of each weight, and for
    # that of the second layer's input.
    assert counted(products_alone(step)) == counted(step) == 2 * 12 * (4 * 9 * 2 + 2 * 4 * 3)


def test_strategies_take_turns_in_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As under torchrun, which starts one of it for each GPU."""
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }.items():
        monkeypatch.setenv(name, str(value))
    sizes = ["--depth", "1", "--dim", "32", "--frames", "8", "--steps", "3", "--rounds", "1"]
    ddp = ["ddp, every step searched", "ddp, gradients copied", "ddp, gradients where they are sent"]
    test_prints_its_table("strategies", sizes, [*ddp, "fsdp"], monkeypatch, capsys)


@pytest.mark.parametrize(
    "options",
    [
        {
            "global_cond_type": "adaLN",
            "num_memory_tokens": 3,
            "local_add_cond_dim": 5,
            "norm_type": "rms_norm",
        }
        | {"attn_kwargs": AttentionOptions(qk_norm="rms", differential=True)},
        {"project_cond_tokens": False},
    ],
    ids=["stable audio 3", "stable audio open"],
)
def test_the_plain_loop_computes_what_the_network_does(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    sizes = {"io_channels": 4, "embed_dim": 64, "depth": 2, "num_heads": 2}
    dit = DiT(**sizes, cond_token_dim=32, global_cond_dim=6, **options).eval()
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.normal_(0, 0.2)
        x, t, text, vector = torch.randn(2, 4, 9), torch.rand(2), torch.randn(2, 3, 32), torch.randn(2, 6)
        local = torch.randn(2, 5, 9) if "local_add_cond_dim" in options else None
        found = PlainDiT(dit)(x, t, text, vector, local)
        expected = dit(x, t, Conditioning(cross_attn=text, global_cond=vector, local_add=local))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
