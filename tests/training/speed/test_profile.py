"""`--profile`: a trace, and a page about what costs most and what would help."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from torch import profiler

from stable_audio.inference.memory.operations import Operations
from stable_audio.training.speed.advice import ProfileFacts, advice
from stable_audio.training.speed.clock import PARTS
from stable_audio.training.speed.kinds import Cost, by_kind, kind_of
from stable_audio.training.speed.page import page
from tests.training.building import tiny_run


def test_a_run_writes_trace_and_page_and_goes_on(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=6, profile=2)
    assert run.start() == 0
    assert run.trainer.global_step == 6
    trace = json.loads((tmp_path / "run" / "profile" / "trace.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("Optimizer.step#Adam.step") == 2
    text = (tmp_path / "run" / "profile" / "summary.txt").read_text()
    assert text.startswith("Recorded: 2 steps on cpu, precision 32-true.\nA step takes ")
    assert "What costs most:\n" in text
    assert "ms per step (" in text
    # Which kinds cost most is for the clock to say; that products are among what was recorded is not.
    assert "matrix products" in {kind_of(str(name)) for name in names}
    assert "the backward pass" in text


@pytest.mark.parametrize("full", [True, False])
def test_a_trace_that_finds_no_room_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, full: bool
) -> None:
    """The profiler writes what fits, and tells nobody."""
    resource = pytest.importorskip("resource")
    export = profiler.profile.export_chrome_trace
    free = 1000 if full else 10**12
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, free))

    def limited(self: Any, path: str, *rest: Any) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            export(self, path, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

    monkeypatch.setattr(profiler.profile, "export_chrome_trace", limited)
    with caplog.at_level(logging.WARNING):
        assert tiny_run(tmp_path, max_steps=6, profile=2).start() == 0
    folder = tmp_path / "run" / "profile"
    assert [path.name for path in folder.iterdir()] == ["summary.txt"]
    (told,) = (r.getMessage() for r in caplog.records if "trace.json" in r.getMessage())
    why = "No space left on the disk of" if full else "the profiler could not write all of it"
    assert told.startswith(f"{folder / 'trace.json'}: not written ({why}")
    assert told.endswith("training continues")


def test_a_run_that_ends_early_has_the_steps_that_there_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_run(tmp_path, name="short", max_steps=4, profile=9).start()
    assert (tmp_path / "short" / "profile" / "summary.txt").read_text().startswith("Recorded: 1 step on cpu")
    tiny_run(tmp_path, name="none", max_steps=3, profile=9).start()
    assert not (tmp_path / "none" / "profile").exists()
    assert "nothing was recorded, since the run ended after 3 steps" in caplog.text


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("matrix products", ["aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise"]),
        (
            "attention",
            [
                "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
                "_AttentionBackward",
                "stable_audio::attention_gradients",
            ],
        ),
        (
            "convolutions",
            ["aten::mkldnn_convolution", "aten::convolution_backward", "aten::cudnn_convolution"],
        ),
        ("norms", ["aten::native_layer_norm_backward", "aten::native_group_norm"]),
        (
            "elementwise",
            [
                "aten::mul",
                "aten::add_",
                "aten::silu_backward",
                "aten::sigmoid",
                "aten::clamp_min",
                "_SwiGLU",
                "_RotationBackward",
            ],
        ),
        ("copies and casts", ["aten::copy_", "aten::cat", "aten::_to_copy", "aten::fill_"]),
        (
            "optimizer",
            [
                "aten::_fused_adamw_",
                "aten::_fused_adagrad_",
                "aten::_foreach_lerp_",
                "Optimizer.step#AdamW.step",
                "Optimizer.zero_grad#AdamW.zero_grad",
                "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>",
            ],
        ),
        (
            "loading of data",
            [
                "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__",
                "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__",
                "aten::_pin_memory",
            ],
        ),
        ("sums", ["aten::sum", "aten::_softmax"]),
        ("communication between processes", ["gloo:all_reduce", "nccl:_all_gather_base"]),
        ("Fourier transforms", ["aten::_fft_r2c"]),
        (
            "all else",
            ["aten::view", "autograd::engine::evaluate_function: MmBackward0"],
        ),
    ],
)
def test_operations_are_told_by_name(kind: str, names: list[str]) -> None:
    assert {kind_of(name) for name in names} == {kind}


def test_kinds_add_up() -> None:
    costs = [Cost("aten::mm", 2.0, 3), Cost("aten::mul", 5.0, 7), Cost("aten::addmm", 4.0, 1)]
    assert by_kind(costs) == [Cost("matrix products", 6.0, 4), Cost("elementwise", 5.0, 7)]


def _facts(device: str = "cuda", parts: dict[str, float] | None = None, **changes: Any) -> ProfileFacts:
    times = {f"speed/time_{part}": 0.0 for part in PARTS} | {"speed/time_forward": 1.0}
    times |= {f"speed/time_{part}": value for part, value in (parts or {}).items()}
    columns = {**times, **changes.pop("columns", {})}
    settings = {"kinds": {}, "precision": "bf16-mixed", **changes}
    return ProfileFacts(columns=columns, device=device, **settings)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            _facts(columns={"speed/data_wait_share": 0.4}),
            "40% of the time is waiting for data: raise --num-workers, or store the data on a faster disk$",
        ),
        (
            _facts(columns={"speed/data_wait_share": 0.4}, encodes=True),
            "40% of the time is waiting for data: raise --num-workers.* or encode it once",
        ),
        (_facts(parts={"pretransform": 1.0}), "50% goes into encoding"),
        (
            _facts(parts={"conditioning": 0.25}, reads_texts=True),
            "20% goes into conditioners: set cache",
        ),
        (_facts(parts={"optimizer": 1.0}), "50% goes into optimizer.* for the same data$"),
        (_facts(parts={"optimizer": 1.0}, averages=True), "50% goes into optimizer.*ema.update_every"),
        (_facts(columns={"speed/padding_share": 0.3}), "30% of the frames are padding"),
        (_facts(busy=0.6), "the GPU computes 60% of the time.*or --compile"),
        (_facts(kinds={"elementwise": 0.3, "norms": 0.1}), "40% goes into small operations.*--compile"),
        (_facts(precision="32-true", kinds={"matrix products": 0.8}), "80% goes into products in float32"),
        (
            _facts(checkpointing=True, operations=Operations(products=10.0, recomputed=4.0)),
            "gradient_checkpointing computes 40% more",
        ),
        (_facts(columns={"speed/mfu": 0.1}, batch_size=2), "products reach 10% of the card's rate"),
        (
            _facts(columns={"speed/slowest_process": 3.0, "speed/slowest_process_lag": 0.2}),
            "process 3 is behind the others by 20%",
        ),
        (_facts(kinds={"communication between processes": 0.5}), "50% goes into communication"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_cause_has_its_advice_and_none_else(facts: ProfileFacts, words: str) -> None:

    (sentence,) = advice(facts)
    assert re.search(words, sentence)


def test_a_model_without_texts_is_not_advised_to_cache_them() -> None:
    """Or one that has them in a cache, or trains its encoder."""
    assert advice(_facts(parts={"conditioning": 0.25})) == []


def test_a_run_where_nothing_stands_out_gets_no_advice() -> None:
    facts = _facts(
        columns={
            "speed/mfu": 0.5,
            "speed/tflops": 9.0,
            "speed/data_wait_share": 0.02,
            "speed/padding_share": 0.1,
        },
        kinds={"matrix products": 0.8, "elementwise": 0.1},
        operations=Operations(products=10.0, recomputed=4.0),
    )
    assert advice(facts) == []
    assert "nothing stands out" in page(facts, [Cost("aten::mm", 1.0, 1)], steps=1, trace="t.json")


def test_the_greatest_gain_comes_first() -> None:
    facts = _facts(columns={"speed/data_wait_share": 0.2, "speed/padding_share": 0.6})
    first, second = advice(facts)
    assert "padding" in first
    assert "waiting" in second
