"""`stable-audio check`: numbers that are right, mistakes that are found, an exit status that tells."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from stable_audio.cli import main
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.check import report as check_report
from stable_audio.training.check.deadline import Deadline
from stable_audio.training.check.report import report_on
from stable_audio.training.memory_plan import Choice, Planner
from tests.config import examples
from tests.golden.harness import MANIFESTS

MODEL_CONFIGS = Path(__file__).parents[2] / "model_configs"
SYNTHETIC = {"dataset_type": "synthetic", "num_clips": 32}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def save(data: dict[str, Any], name: str = "model.json") -> str:
        path = tmp_path / name
        path.write_text(json.dumps(data))
        return str(path)

    return save


def test_the_report_counts_what_the_model_has(write: Any) -> None:
    report = report_on(write(examples.cond()), dry=True, batch_size=2)
    model = create_model_from_config(examples.cond())
    counts = report["parameters"]
    for part in ("backbone", "conditioner", "pretransform"):
        assert counts[part] == sum(p.numel() for p in getattr(model, part).parameters())
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert counts["trainable"] == counts["backbone"] + counts["conditioner"]
    assert counts["text_encoder"] == 0
    assert report["shape"]["latents"] == [4, 128]
    assert report["slots"]["cross_attn"] == {"width": 8, "ids": {"prompt": 8, "seconds_total": 8}}
    assert report["checkpoint"]["inference"] == sum(
        v.numel() * v.element_size() for v in model.state_dict().values()
    )
    memory = report["memory"]
    trained = sum(p.requires_grad for p in model.parameters())
    assert memory["parts"]["optimizer"] == 8 * counts["trainable"] + 4 * trained  # Adam counts its steps
    buffers = sum(v.numel() * v.element_size() for v in model.backbone.buffers())
    assert memory["parts"]["ema"] == 4 * counts["backbone"] + buffers
    assert memory["total"] == sum(memory["parts"].values())
    assert (report["errors"], report["warnings"]) == ([], [])


def test_frozen_parts_need_no_gradients_nor_averages(write: Any) -> None:
    data = examples.cond()
    freeze = {"trained": ["conditioner"], "precision": "bfloat16"}
    data["training"]["transforms"] = [{"type": "freeze", "config": freeze}]
    report = report_on(write(data), dry=True)
    counts, parts = report["parameters"], report["memory"]["parts"]
    assert counts["trainable"] == counts["conditioner"]
    assert parts["gradients"] == 4 * counts["conditioner"]
    assert parts["ema"] <= parts["buffers"]  # frozen layers have buffers, too
    assert 2 * counts["total"] < parts["weights"] < 4 * counts["total"]
    freeze["trained"] = ["conditoner"]
    errors = report_on(write(data), dry=True)["errors"]
    assert len(errors) == 1
    assert "did you mean 'conditioner'" in errors[0]


@pytest.mark.slow
def test_published_sizes() -> None:
    config = json.loads((MANIFESTS / "stable_audio_open_1_0_like.json").read_text())
    report = report_on_dict(config["config"])
    assert report["parameters"]["text_encoder"] == 109_628_544
    assert report["parameters"]["total"] == config["n_params"]
    assert report["shape"]["latents"] == [64, 1024]


def test_frozen_encoders_are_counted_once_and_in_their_type(write: Any) -> None:
    data = examples.cond()
    configs = data["model"]["conditioning"]["configs"]
    before = report_on(write(data), dry=True)
    prompt = next(c for c in configs if c["id"] == "prompt")
    prompt.update(type="t5gemma", config={})
    data["training"].pop("demo")
    data["training"]["encoding_precision"] = "float32"  # else the autoencoder rests in host memory
    for name in ("style", "mood"):
        configs.append({"id": name, "type": "clap_text", "config": {"clap_ckpt_path": "/nowhere/clap.pt"}})
    report = report_on(write(data), dry=True)
    assert report["errors"] == []
    assert report["parameters"]["text_encoder"] == 281_580_288 + 125_302_016
    others = report["memory"]["parts"]["weights"] - 4 * report["parameters"]["total"]
    assert others == 4 * (281_580_288 + 125_302_016)
    assert before["parameters"]["text_encoder"] == 0


def test_an_encoder_that_is_not_at_hand_is_left_out_and_named(write: Any) -> None:
    data = examples.cond()
    prompt = next(c for c in data["model"]["conditioning"]["configs"] if c["id"] == "prompt")
    prompt.update(type="text_encoder", config={"model_name": "owner/name", "dim": 8})
    report = report_on(write(data), dry=True)
    assert report["errors"] == []
    assert report["parameters"]["text_encoder"] == 0
    notes = [a for a in report["memory"]["assumptions"] if "frozen encoder of" in a]
    assert notes == [
        "without the frozen encoder of 'prompt', which cannot be counted: 'owner/name' was not downloaded yet"
    ]


def report_on_dict(config: dict[str, Any]) -> dict[str, Any]:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        return report_on(file.name, dry=True)


def test_activations_grow_with_depth_and_length() -> None:
    def activations(data: dict[str, Any]) -> int:
        return Planner(load_config(data)).plan(Choice()).parts["activations"]

    data = examples.uncond()
    small = activations(data)
    data["model"]["config"]["depth"] = 2
    twice = activations(data)
    data["sample_size"] *= 2
    longer = activations(data)
    assert 0 < small < twice < 2 * small
    # Fused attention: no score matrix, so memory grows with the length, not with its square.
    assert longer == pytest.approx(2 * twice, rel=0.1)


@pytest.mark.parametrize("make", [examples.autoencoder, examples.diffusion_autoencoder])
def test_autoencoders_are_described(make: Any, write: Any) -> None:
    report = report_on(write(make()), dry=True)
    model = create_model_from_config(make())
    assert report["errors"] == []
    assert report["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert report["shape"]["latents"] == [4, 128]


def test_json_output_and_exit_status(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", write(examples.cond()), "--dry", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"backbone", "conditioner", "pretransform", "total"} <= set(report["parameters"])
    assert report["errors"] == []
    data = examples.cond()
    data["model"]["diffusion"]["config"]["depht"] = 1
    data["sample_size"] = 7
    path = write(data)
    assert main(["check", path, "--dry", "--json"]) == 1
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert errors[0] == f"{path}: $.model.diffusion.config.depht: unknown key; did you mean 'depth'?"
    assert errors[1].startswith(f"{path}: $.sample_size: found 7")


def test_text_output(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", write(examples.cond()), write(SYNTHETIC, "data.json"), "--dry"]) == 0
    out = capsys.readouterr().out
    for word in (
        "backbone",
        "cross_attn",
        "4 channels x 128 frames",
        "training memory",
        "32 items",
        "all is well",
    ):
        assert word in out
    assert main(["check", write({"model_type": "x"}), "--dry"]) == 1
    assert "error" in capsys.readouterr().out


def test_lenient(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = {**examples.uncond(), "colour": 1}
    assert main(["check", write(data), "--dry"]) == 1
    assert main(["check", write(data), "--dry", "--lenient"]) == 0
    assert "warning" in capsys.readouterr().out


def test_files_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "/nowhere/m.json", "--dry"]) == 1
    assert "cannot be read" in capsys.readouterr().out


def test_datasets_are_checked_against_the_model(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_on(write(examples.cond()), write(SYNTHETIC, "d.json"), dry=True)
    assert report["errors"] == []
    assert report["dataset"]["items"] == 32
    data = examples.cond()
    data["model"]["conditioning"]["configs"][2]["id"] = "genre"
    data["model"]["conditioning"].pop("default_keys")
    data["training"].pop("demo")
    text = json.dumps(data).replace('"seconds_total"', '"genre"')
    report = report_on(write(json.loads(text)), write(SYNTHETIC, "d.json"), dry=True)
    assert "lacks 'genre'" in report["errors"][0]
    report = report_on(
        write(examples.cond()), write({"dataset_type": "synthetic", "x": 1}, "d.json"), dry=True
    )
    assert "$.x: unknown key" in report["errors"][0]
    empty = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": "/nowhere"}]}
    report = report_on(write(examples.cond()), write(empty, "d.json"), dry=True)
    assert "/nowhere" in report["errors"][0]
    bucket = {"dataset_type": "s3", "datasets": [{"id": "a", "s3_path": "s3://nowhere/x"}]}
    program = tmp_path / "aws"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    report = report_on(write(examples.cond()), write(bucket, "d.json"), dry=True)
    assert report["errors"] == []
    assert "would download" in report["warnings"][0]
    program.unlink()
    report = report_on(write(examples.cond()), write(bucket, "d.json"), dry=True)
    assert "needs the `aws` command-line program, which is not installed" in report["errors"][0]
    latents = examples.cond()
    latents["training"]["pre_encoded"] = True
    report = report_on(write(latents), write(SYNTHETIC, "d.json"), dry=True)
    assert "found true, but the dataset file describes sound" in report["errors"][0]
    assert "the model takes latents with 4" in report["errors"][1]


def test_without_dry_a_step_a_demo_a_save_and_a_reload_are_done(write: Any) -> None:
    report = report_on(write(examples.uncond()), write(SYNTHETIC, "d.json"))
    assert report["errors"] == []
    assert report["rehearsal"]["loss"] > 0
    assert report["rehearsal"]["demo_seconds"] > 0
    assert report["rehearsal"]["reload_seconds"] > 0


def test_a_model_without_training_is_not_rehearsed(write: Any) -> None:
    data = examples.uncond()
    del data["training"]
    report = report_on(write(data))
    assert report["errors"] == []
    assert report["warnings"] == ["no training section: the model can be used, but not trained"]


def test_what_fails_in_the_rehearsal_is_an_error(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from stable_audio.training.check import rehearsal

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(rehearsal, "rehearse", fail)
    report = report_on(write(examples.uncond()))
    assert report["errors"] == ["out of memory"]


@pytest.mark.slow
def test_latents_with_rows(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((MODEL_CONFIGS / "unet" / "latent_spectrogram.json").read_text())
    config["model"]["diffusion"]["config"].update(channels=32, blocks=1)  # following large ones takes long
    path = write(config)
    report = report_on(path, dry=True, batch_size=1)
    assert (report["errors"], report["warnings"]) == ([], [])
    assert report["shape"]["latents"] == [4, 32, 256]
    assert report["memory"]["parts"]["activations"] > 0
    assert main(["check", str(path), "--dry"]) == 0
    assert "4 channels x 32 rows x 256 frames" in capsys.readouterr().out
    autoencoder = MODEL_CONFIGS / "autoencoders" / "spectrogram_kl.json"
    assert report_on(autoencoder, dry=True)["shape"]["latents"] == [4, 32, 32]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"]["diffusion"]["config"].update(dims=1), "its latents have 32 rows"),
        (lambda c: c["model"]["diffusion"]["config"].update(multipliers=[1] * 7), "not a multiple of 64"),
        (lambda c: c.update(model_type="diffusion_cond_inpaint"), "inpainting needs latents without rows"),
        (
            lambda c: c["model"].update(
                pretransform={"type": "patched", "config": {"channels": 1, "patch_size": 4}}
            ),
            "takes latents with rows, but these have none",
        ),
    ],
)
def test_latents_with_rows_that_do_not_fit(write: Any, change: Any, message: str) -> None:
    config = json.loads((MODEL_CONFIGS / "unet" / "latent_spectrogram.json").read_text())
    config["model"]["diffusion"]["config"].update(attention=None, cross_attention=None)
    config["model"]["diffusion"]["config"].pop("cross_attn")
    config["model"]["diffusion"]["cross_attention_cond_ids"] = []
    change(config)
    assert any(message in e for e in report_on(write(config), dry=True)["errors"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sample_size": 10**400}, r"\$\.sample_size: found a number of about 401 digits"),
        ({"sample_size": 10**12}, r"\$\.sample_size: found 1000000000000; it should be less than"),
        ({"sample_rate": 10**18}, r"\$\.sample_rate: found 1000000000000000000; it should be less than"),
        (
            {"depth": 10**9},
            r"\$\.model\.diffusion\.config: has more layers .* config\.depth 10{9}",
        ),
        ({"embed_dim": 10**15}, r"\$\.model\.diffusion\.config: cannot be built with these values"),
        ({"global_cond_dim": 10**12}, r"\$\.model\.diffusion"),
    ],
)
def test_sizes_beyond_reason_are_refused(change: dict[str, int], words: str, write: Any) -> None:
    data = examples.cond()
    for key, value in change.items():
        (data if key in data else data["model"]["diffusion"]["config"])[key] = value
    report = report_on(write(data), dry=True)
    assert any(re.search(words, error) for error in report["errors"]), report["errors"]


def test_a_dry_check_ends_in_time_whatever_is_slow(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                sum(range(1000))  # computes: the limit is of processor time
            except Exception:
                continue

    loaded = check_report.load_config(examples.cond())
    monkeypatch.setattr(check_report, "DRY_SECONDS", 0.05)
    monkeypatch.setattr(check_report, "load_config", lambda *args, **kwargs: loaded)
    monkeypatch.setattr(check_report, "create_model_from_config", slow)
    report = report_on(write(examples.cond()), write(SYNTHETIC, "data.json"), dry=True)
    assert report["errors"] == []
    assert any("not counted within 0.05 seconds" in w for w in report["warnings"])
    monkeypatch.setattr(check_report, "load_config", slow)
    (error,) = report_on(write(examples.cond()), dry=True)["errors"]
    assert "cannot be built within 0.05 seconds" in error


def test_after_a_deadline_the_timer_is_off() -> None:
    deadline = Deadline(0.03)
    with pytest.raises(TimeoutError):
        deadline.run(lambda: time.sleep(5), waits=True)
    with pytest.raises(TimeoutError):
        deadline.run(lambda: time.sleep(5), waits=True)
    time.sleep(0.05)
    assert Deadline(None).run(lambda: 3) == Deadline(5).run(lambda: 3) == 3
    with pytest.raises(KeyError):
        Deadline(5).run(lambda: {}["a"])


def test_the_verdict_names_the_file_that_is_wrong(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = write(examples.cond()), write({**SYNTHETIC, "clips": 1}, "data.json")
    assert main(["check", model, data, "--dry"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"{data}: 1 error"
    model, data = write({**examples.cond(), "sample_size": 0}), write(SYNTHETIC, "data.json")
    assert main(["check", model, data, "--dry"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"{model}: 1 error"
    assert main(["check", write(examples.cond()), data, "--dry"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{model}, {data}: all is well"


def test_waiting_for_a_busy_machine_is_not_building() -> None:
    from stable_audio.training.check.deadline import Deadline

    deadline = Deadline(0.02)
    deadline.run(lambda: time.sleep(0.06))
    with pytest.raises(TimeoutError, match=r"not done within 0\.02 seconds"):
        deadline.run(lambda: time.sleep(0.06), waits=True)


def test_actions_share_the_time_of_a_deadline() -> None:
    from stable_audio.training.check.deadline import Deadline

    def compute() -> None:
        begin = time.process_time()
        while time.process_time() < begin + 0.03:
            pass

    deadline = Deadline(0.05)
    deadline.run(compute)
    with pytest.raises(TimeoutError):
        deadline.run(compute)
