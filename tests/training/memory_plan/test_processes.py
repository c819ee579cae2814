"""Plans of several processes that train together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference.memory.errors import OutOfMemory
from stable_audio.training.build import build_training
from stable_audio.training.callbacks import summary
from stable_audio.training.errors import TrainingError
from stable_audio.training.memory_plan import Choice, Planner, answer
from stable_audio.training.memory_plan.changes import CHANGES
from stable_audio.training.memory_plan.gathered import gathered_bytes
from stable_audio.training.memory_plan.processes import Sharing, sharing_of
from stable_audio.training.options import RunOptions
from stable_audio.training.record.lines import planned as summary_plan
from tests.training.autoencoder.test_autoencoder import tiny_config as autoencoder_config
from tests.training.building import latent_config, tiny_config, tiny_run
from tests.training.worlds import run_world


def test_what_is_split_is_counted_once() -> None:
    """Two blocks at once, and what is outside of blocks."""
    loaded = load_config(tiny_config())
    module = build_training(loaded, create_model_from_config(loaded))
    backbone: Any = module.model.backbone
    block = sum(p.nbytes for p in backbone.transformer.layers[0].parameters())
    trained = sum(p.nbytes for p in module.model.parameters() if p.requires_grad)
    assert gathered_bytes(module) == (trained, trained, block)  # of which two are all there are


def test_a_discriminator_is_split_too() -> None:
    loaded = load_config(autoencoder_config())
    module: Any = build_training(loaded, create_model_from_config(loaded))
    trained = sum(p.nbytes for part in (module.model, module.discriminator) for p in part.parameters())
    assert gathered_bytes(module).split == trained


def test_parts_are_divided_by_the_processes_that_have_them() -> None:
    planner = Planner(load_config(tiny_config()), device="cuda")
    one = planner.plan(Choice()).parts
    ddp = planner.plan(Choice(sharing=Sharing(processes=8, strategy="ddp"))).parts
    assert ddp == one
    for processes, shares, strategy in ((8, 8, "fsdp"), (32, 8, "hsdp")):
        sharing = Sharing(processes=processes, strategy=strategy, shares=shares)
        split = planner.plan(Choice(sharing=sharing)).parts
        for name in ("weights", "gradients", "optimizer", "ema"):
            assert split[name] == pytest.approx(one[name] / 8, rel=0.02), name
        assert split["gathered"] > 0


@pytest.mark.parametrize(
    ("stored", "precision"), [(True, "auto"), (False, "auto"), (False, "float32")], ids=str
)
def test_several_processes_keep_the_autoencoder_on_their_devices(stored: bool, precision: str) -> None:
    """Beside the copy of its encoder, if there is one; one process leaves it on the host where it can."""
    settings = {"pre_encoded": stored, "encoding_precision": precision}
    config = load_config(latent_config() | {"training": {"learning_rate": 1e-3, **settings}})
    planner = Planner(config, device="cuda")
    one = planner.plan(Choice()).parts["weights"]
    several = planner.plan(Choice(sharing=Sharing(processes=2, strategy="ddp"))).parts["weights"]
    model: Any = create_model_from_config(config)
    autoencoder = sum(p.nbytes for p in model.pretransform.parameters())
    assert several - one == (0 if precision == "float32" else autoencoder)


def test_a_copy_of_the_encoder_is_beside_the_autoencoder_on_a_cpu() -> None:
    weights = {}
    for precision in ("float32", "float16"):
        settings = {"pre_encoded": False, "encoding_precision": precision}
        config = load_config(latent_config() | {"training": {"learning_rate": 1e-3, **settings}})
        weights[precision] = Planner(config, device="cpu").plan(Choice()).parts["weights"]
    model: Any = create_model_from_config(config)
    decoder = {id(p) for p in model.pretransform.model.decoder.parameters()}
    copied = sum(p.nbytes // 2 for p in model.pretransform.parameters() if id(p) not in decoder)
    assert weights["float16"] - weights["float32"] == copied


def test_the_first_process_has_room_for_the_checkpoint_that_it_gathers() -> None:
    """On a CPU: its part of everything, and weights, average and both moments of AdamW whole."""
    section = {"learning_rate": 1e-3, "use_ema": True}
    config = load_config(tiny_config() | {"training": section})
    planner = Planner(config, device="cpu")
    weights = planner.plan(Choice(average="device")).parts["weights"]
    plans = {
        gathers: planner.plan(
            Choice(
                average="device",
                sharing=Sharing(processes=4, strategy="fsdp", shares=4, gathers_checkpoints=gathers),
            )
        )
        for gathers in (False, True)
    }
    assert plans[False].parts["checkpoint"] == 0
    assert "checkpoint" not in plans[False].moments
    held = sum(plans[True].parts[name] for name in ("weights", "buffers", "gradients", "optimizer", "ema"))
    assert plans[True].moments["checkpoint"] == pytest.approx(held + 4 * weights, rel=0.02)
    assert plans[True].total == plans[True].moments["checkpoint"] + plans[True].parts["reserve"]
    assert plans[True].total > plans[False].total


def test_a_gpu_has_no_room_for_a_gathered_checkpoint_and_its_host_is_told_of_it() -> None:
    planner = Planner(load_config(tiny_config()), device="cuda")
    sharing = Sharing(processes=4, strategy="fsdp", shares=4, gathers_checkpoints=True)
    plan = planner.plan(Choice(sharing=sharing))
    assert plan.parts["checkpoint"] == 0
    assert any("of host memory in which the first process gathers" in note for note in plan.assumptions)
    apart = planner.plan(Choice(sharing=replace(sharing, gathers_checkpoints=False)))
    assert not any("host memory" in note for note in apart.assumptions)


def test_several_processes_are_proposed_nothing_that_they_refuse() -> None:
    sharing = Sharing(processes=2, strategy="ddp")
    for start in (Choice(sharing=sharing), Choice(sharing=sharing, rank=16)):
        proposed = [found for change in CHANGES if (found := change(start)) is not None]
        assert len(proposed) > 3
        assert not any(choice.releases or choice.offloads for choice in proposed)


def test_ddp_on_a_cpu_holds_gradients_twice() -> None:
    planner = Planner(load_config(tiny_config()), device="cpu")
    one = planner.plan(Choice()).parts
    ddp = planner.plan(Choice(sharing=Sharing(processes=2, strategy="ddp"))).parts
    assert ddp["gradients"] == 2 * one["gradients"]


def test_sharing_follows_the_options() -> None:
    assert sharing_of(RunOptions(strategy="fsdp"), 8).shares == 8
    assert sharing_of(RunOptions(strategy="hsdp", shard_size=4), 8).shares == 4
    assert sharing_of(RunOptions(strategy="fsdp"), 8).gathers_checkpoints
    assert not sharing_of(RunOptions(strategy="fsdp", checkpoint_format="shards"), 8).gathers_checkpoints
    assert not sharing_of(RunOptions(strategy="ddp"), 8).gathers_checkpoints
    assert sharing_of(RunOptions(strategy="fsdp"), 1) == Sharing()
    assert sharing_of(RunOptions(), 8).words() == "ddp on 8 devices"
    assert sharing_of(RunOptions(strategy="hsdp", shard_size=4), 8).words() == "hsdp on 8 devices, 4 parts"
    for options, processes, message in (
        (RunOptions(strategy="deepspeed"), 2, "not planned; give one of auto, ddp, fsdp, hsdp"),
        (RunOptions(strategy="hsdp"), 8, "give --shard-size 2 or 4, or use --strategy fsdp"),
        (
            RunOptions(strategy="hsdp", shard_size=5),
            12,
            "12 processes are not several whole groups of 5; give --shard-size 2, 3, 4 or 6",
        ),
        (RunOptions(strategy="hsdp", shard_size=2), 2, "no --shard-size fits 2 processes; use --strategy"),
        (RunOptions(), 0, "a run has at least 1"),
    ):
        with pytest.raises(TrainingError, match=message):
            sharing_of(options, processes)


def test_a_precision_that_is_not_planned_ends_no_run() -> None:
    options = RunOptions(precision="transformer-engine")
    assert (
        summary_plan(
            load_config(tiny_config()), options, precision="transformer-engine", device="cuda", row=1024
        )
        is None
    )


def _run_out_of_memory(folder: Path, strategy: str, more: dict[str, Any], expected: Sharing) -> None:
    """A run of this process and others that fails in its first step."""
    found: list[Sharing] = []
    original: Any = answer.cheapest

    def planned(*_: Any, sharing: Sharing, **__: Any) -> None:
        found.append(sharing)

    def cheapest(planner: Planner, plan: Any) -> Any:
        found.append(plan.choice.sharing)
        return original(planner, plan)

    def fails(*_: Any, **__: Any) -> Any:
        raise MemoryError

    summary.planned, answer.cheapest = planned, cheapest  # type: ignore[assignment]
    run = tiny_run(folder, strategy=strategy, devices="auto", max_steps=1, **more)
    run.module.training_step = fails  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory, match="the run takes about ") as caught:
        run.start()
    assert "gradient_release" not in str(caught.value)
    assert found == [expected] * (2 if torch.distributed.get_rank() == 0 else 1)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
@pytest.mark.parametrize(
    ("processes", "strategy", "more", "shares"),
    [
        (2, "ddp", {}, 1),
        (2, "fsdp", {}, 2),
        (4, "hsdp", {"shard_size": 2}, 2),
    ],
)
def test_a_run_of_several_processes_is_planned_as_one(
    processes: int, strategy: str, more: dict[str, Any], shares: int, tmp_path: Path
) -> None:
    """At its start, which the first process logs, and where memory runs out."""
    name = "auto" if strategy == "ddp" else strategy
    expected = Sharing(processes=processes, strategy=name, shares=shares, gathers_checkpoints=shares > 1)
    run_world(processes, _run_out_of_memory, tmp_path, strategy, more, expected)
