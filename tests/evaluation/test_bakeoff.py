from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stable_audio.cli import main
from stable_audio.evaluation import bakeoff
from stable_audio.evaluation.bakeoff import Contender, TrainingResult, compete, contender, table
from stable_audio.evaluation.scores import Scores
from stable_audio.factory import create_model_from_config

CONFIGS = Path(__file__).parents[2] / "model_configs" / "bakeoff"
N, IO, WIDTH, COND = 32, 2, 6, 4


def small_config(**change: Any) -> dict[str, Any]:
    text = {"width": 8, "layers": 1, "heads": 2, "max_length": 24, "vocab_size": 258, "pooled": True}
    return {
        "model_type": "diffusion_cond",
        "sample_size": N,
        "sample_rate": 8000,
        "audio_channels": IO,
        "model": {
            "conditioning": {
                "cond_dim": COND,
                "configs": [{"id": "prompt", "type": "clip_text", "config": text}],
            },
            "diffusion": {
                "type": "mlp",
                "global_cond_ids": ["prompt"],
                "config": {"io_channels": IO, "width": WIDTH, "depth": 2, "global_cond_dim": COND},
            },
            "io_channels": IO,
        },
        "training": {"learning_rate": 1e-3},
        **change,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, **change: Any) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(small_config(**change)))
        return path

    return make


def test_flops_of_a_perceptron_are_counted_exactly(write: Callable[..., Path]) -> None:
    entry = contender(write("mlp"))
    hidden = 4 * WIDTH
    fed_by_data = 2 * (WIDTH * hidden + COND * hidden + N * IO * WIDTH)
    rest = 2 * (hidden * hidden + 2 * (hidden * 2 * WIDTH + 2 * N * WIDTH * 4 * WIDTH) + N * WIDTH * IO)
    assert entry.forward_flops == fed_by_data + rest
    # Backward: the gradient of the weights everywhere, that of the input where there is one to pass on.
    assert entry.step_flops == 2 * fed_by_data + 3 * rest


def test_attention_is_counted() -> None:
    """The DiT's matrix products by hand: projections, feed-forward and attention of every block."""
    entry = contender(CONFIGS / "dit.json")
    model = create_model_from_config(entry.config)
    frames, depth, dim = model.latent_shape[1], 4, 192
    cond = model.condition([bakeoff.EXAMPLE])
    assert cond.cross_attn is not None
    tokens = cond.cross_attn.shape[1]
    per_frame = depth * (4 + 2 + 12) * dim * dim  # self-attention, cross-attention's q and out, gated ff
    attention = depth * 2 * frames * dim * (frames + tokens)
    assert 1.0 < entry.forward_flops / (2 * (frames * per_frame + attention)) < 1.25


def test_budget_buys_steps(write: Callable[..., Path]) -> None:
    entry = contender(write("mlp"))
    assert entry.steps(entry.step_flops * 4 * 25, batch_size=4) == 25
    assert entry.steps(1.0, batch_size=4) == 1


class FakeEvaluator:
    def __init__(self, **_: Any) -> None: ...

    def requests(self, *, repeats: int) -> list[Any]:
        return []

    def score(self, clips: Any, requests: Any) -> Scores:
        return Scores(0, float(clips[0]), 0.25, 0.0, Counter(), {}, 0.0)


def test_the_best_comes_first_and_the_table_names_all(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bakeoff, "QuickstartEvaluator", FakeEvaluator)
    monkeypatch.setattr(bakeoff, "generate", lambda model, *_, **__: [model])
    entries = [contender(write("poor")), contender(write("good"))]
    pitch = {"poor": 0.1, "good": 0.75}
    spent: dict[str, int] = {}

    def train(entry: Contender, steps: int) -> TrainingResult:
        spent[entry.name] = steps
        return TrainingResult(model=pitch[entry.name], val_loss=0.5, seconds=1.0)  # type: ignore[arg-type]

    lines: list[str] = []
    results = compete(entries, train, budget=1e6, batch_size=2, report=lines.append)
    assert [r.name for r in results] == ["good", "poor"]
    assert spent == {e.name: e.steps(1e6, 2) for e in entries}
    assert len(lines) == 2
    assert "75.0%" in table(results).splitlines()[1]
    assert json.dumps([r.as_dict() for r in results])


def test_contenders_must_solve_the_same_task(write: Callable[..., Path]) -> None:
    entries = [contender(write("one")), contender(write("two", sample_rate=16000))]
    with pytest.raises(ValueError, match="one and two differ in sample_rate"):
        compete(entries, lambda *_: None, budget=1.0, batch_size=1)  # type: ignore[arg-type, return-value]


def test_contenders_of_one_name_would_share_a_folder(write: Callable[..., Path]) -> None:
    entry = contender(write("one"))
    with pytest.raises(ValueError, match="two model files are called 'one'"):
        compete([entry, entry], lambda *_: None, budget=1.0, batch_size=1)  # type: ignore[arg-type, return-value]


def test_conditioning_that_the_collection_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="has no \\['class'\\]"):
        contender(CONFIGS.parent / "unet" / "mlp.json")


@pytest.mark.slow
def test_plan_of_the_shipped_files(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(str(p) for p in CONFIGS.glob("*.json") if "x_transformers" not in p.name)
    assert main(["bakeoff", *files, "--dry", "--budget", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [Path(f).stem for f in files]


@pytest.mark.slow
def test_a_whole_bakeoff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One optimizer step of the smallest budget, judged and tabled."""
    report = tmp_path / "results.json"
    arguments = ["--budget", "0.0002", "--batch-size", "2", "--sampling-steps", "1", "--accelerator", "cpu"]
    paths = ["--save-dir", str(tmp_path / "runs"), "--json", str(report)]
    assert main(["bakeoff", str(CONFIGS / "adp_1d.json"), *arguments, *paths]) == 0
    (result,) = json.loads(report.read_text())
    assert result["steps"] == 1
    assert result["val_loss"] > 0
    assert "adp_1d" in capsys.readouterr().out.splitlines()[-1]
