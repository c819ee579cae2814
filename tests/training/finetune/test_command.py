"""`stable-audio finetune` as a user types it."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stable_audio.adapters import ADAPTER_TYPES, read_adapter
from stable_audio.audio.io import read_audio
from stable_audio.cli import main
from stable_audio.conditioning.text_encoder import TextEncoderConditioner
from stable_audio.training.callbacks import checkpoints
from stable_audio.training.callbacks.checkpoints import Checkpoints
from stable_audio.training.finetune import command
from stable_audio.training.finetune.ways import Way
from tests.training import building
from tests.training.batches.test_texts import config as with_bert
from tests.training.finetune.sounds import stored_model, write_sounds


def words(tmp_path: Path, *more: str) -> list[str]:
    given = ["--from", str(tmp_path / "stored.safetensors"), "--data", str(tmp_path / "s")]
    plan = ["--steps", "4", "--batch-size", "2", "--sampling-steps", "2", "--device", "cpu", "--no-demos"]
    return ["finetune", *given, "--out", str(tmp_path / "runs" / "zorb"), *plan, *more]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stored_model(tmp_path)
    write_sounds(tmp_path / "s")
    return tmp_path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_from_a_folder_to_a_page_and_again_by_the_command_it_prints(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, "--full")) == 0
    said = capsys.readouterr().out
    run = folder / "runs" / "zorb"
    assert "4 of 4 can be used" in said
    assert "1 stored beside the sounds, 3 from the names" in said
    assert "4 steps of 2 clips" in said
    assert "s per step, measured" in said
    assert f"results      in {folder / 'runs' / 'zorb'}\n             last.safetensors, the model; " in said
    assert "planned      " not in said
    assert "--keep FILE.jsonl" in said
    page = (run / "before_and_after" / "index.html").read_text()
    for text in ("before", "after", "a zorb, note 0", "warm tone 3", "loss.png"):
        assert text in page
    before = load_file(folder / "stored.safetensors")
    after = weights(run)
    assert before.keys() == after.keys()
    assert not same(before, after)
    # Everything that was decided is in ordinary files, and the command repeats the run bit for bit.
    (command,) = [
        line.split("to repeat    ")[1] for line in said.splitlines() if line.startswith("to repeat")
    ]
    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "train.py")
    assert main(["train", *arguments, "--no-progress"]) == 0
    assert same(after, weights(folder / "runs" / "zorb-again"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "dora-rows"])
def test_an_adapter_is_a_small_file_beside_the_model(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, "--adapter", kind, "--rank", "2")) == 0
    said = capsys.readouterr().out
    assert f"an adapter, {kind}, rank 2" in said
    run = folder / "runs" / "zorb"
    adapter = read_adapter(run / "last.safetensors")
    assert (adapter.settings.adapter_type, adapter.settings.rank) == (kind, 2)
    assert (run / "last.safetensors").stat().st_size < (folder / "stored.safetensors").stat().st_size
    sounds = run / "before_and_after"
    before, half, whole = (
        [read_audio(sounds / f"{i:02d}_strength_{strength}.wav")[0] for i in range(4)]
        for strength in ("0", "0.5", "1")
    )
    assert not any(torch.equal(one, other) for one, other in zip(before, whole))
    assert not any(torch.equal(one, other) for one, other in zip(half, whole))
    # At strength 0 it is the model itself, from the same noise.
    told = ["--sampling-steps", "2"]
    assert main(words(folder, "--full", "--out", str(folder / "runs" / "full"), *told)) == 0
    others = folder / "runs" / "full" / "before_and_after"
    assert all(torch.equal(b, read_audio(others / f"{i:02d}_before.wav")[0]) for i, b in enumerate(before))
    again = next(line for line in said.splitlines() if line.startswith("to repeat"))
    assert main(["train", *shlex.split(again)[4:], "--no-progress"]) == 0
    assert same(weights(run), weights(folder / "runs" / "zorb-again"))


@pytest.mark.slow
def test_a_dry_run_stops_after_the_plan_and_a_later_run_reads_the_cache(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, "--full", "--dry")) == 0
    first = capsys.readouterr().out
    run = folder / "runs" / "zorb"
    assert "4 sounds encoded, 0 read from the cache" in first
    assert first.endswith("nothing is trained yet; the same command without --dry trains\n")
    assert not (run / "last.ckpt").exists()
    assert {p.name for p in (run / "finetune").iterdir()} == {
        "captions.jsonl", "dataset.json", "decided.json", "files.txt", "model.json", "sounds.json",
    }  # fmt: skip
    # The same request finds what was decided; another one in the same folder is refused.
    assert main(words(folder, "--full", "--dry")) == 0
    assert capsys.readouterr().out == first
    assert main(words(folder, "--full", "--dry", "--learning-rate", "0.5")) == 2
    assert "learning_rate was None, is 0.5" in capsys.readouterr().err
    # So is another limit of memory, for which it was not planned.
    assert main(words(folder, "--full", "--dry", "--device-memory", "3")) == 2
    assert "planned for another --device-memory (what was free)" in capsys.readouterr().err
    # A new run on the same sounds encodes nothing.
    assert main(words(folder, "--full", "--dry", "--overwrite", "--learning-rate", "0.5")) == 0
    assert "0 sounds encoded, 4 read from the cache" in capsys.readouterr().out
    # Another caption is another sound.
    (folder / "s" / "warm_tone-1.txt").write_text("another")
    assert main(words(folder, "--full", "--dry", "--overwrite")) == 0
    assert "4 sounds encoded, 0 read from the cache" in capsys.readouterr().out


@pytest.mark.slow
def test_texts_are_read_once_before_the_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    config = with_bert(tmp_path / "bert")
    config.pop("training")
    building.stored(tmp_path, ".safetensors", config)
    write_sounds(tmp_path / "s")
    (tmp_path / "kept.jsonl").write_text(json.dumps({"prompt": "a bell"}) + "\n")
    reads: list[int] = []
    read = TextEncoderConditioner.read
    monkeypatch.setattr(TextEncoderConditioner, "read", lambda *a: reads.append(1) or read(*a))
    counts: list[int] = []
    trial = command.seconds_per_step

    def counted(*arguments: Any) -> float:
        counts.append(len(reads))
        return trial(*arguments)

    monkeypatch.setattr(command, "seconds_per_step", counted)
    line = words(tmp_path, "--dry", "--prompt", "a zorb")
    assert main([*line, "--keep", str(tmp_path / "kept.jsonl"), "--keep-clips", "1"]) == 0
    # Four captions, a prompt to compare, and one to keep, which was also read to render its sound.
    assert "texts        6 read by the encoder of 'prompt', 0 from the cache" in capsys.readouterr().out
    assert counts[-1] == len(reads), "the trial reads none"
    reads.clear()
    assert main([*line, "--overwrite", "--learning-rate", "1e-3"]) == 0
    assert "texts        0 read by the encoder of 'prompt', 5 from the cache" in capsys.readouterr().out
    assert reads == []


def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stable_audio.training.diffusion.module import DiffusionTraining

    assert main(words(folder, "--full")) == 0
    whole = weights(folder / "runs" / "zorb")
    other = words(folder, "--full")
    other[other.index("--out") + 1] = str(folder / "runs" / "killed")
    step, taken = DiffusionTraining.training_step, []

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append(1)
        if len(taken) == 7:  # the trial before takes four steps
            raise RuntimeError("killed")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DiffusionTraining, "training_step", failing)
    with pytest.raises(RuntimeError, match="killed"):
        main(other)
    monkeypatch.setattr(DiffusionTraining, "training_step", step)
    assert "goes on" not in capsys.readouterr().out
    assert main(other) == 0
    assert "goes on      from the last checkpoint" in capsys.readouterr().out
    assert same(whole, weights(folder / "runs" / "killed"))


def test_the_clock_saves_a_fine_tune_for_one_that_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    save = Checkpoints.save

    def noted(self: Checkpoints, trainer: Any, module: Any, **kind: Any) -> None:
        saved.append((trainer.global_step, kind.get("numbered", True)))
        save(self, trainer, module, **kind)

    monkeypatch.setattr(Checkpoints, "save", noted)
    monkeypatch.setattr(checkpoints, "FIRST_STEPS", 2)
    assert main(words(folder, "--full")) == 0
    assert saved == [(2, False), (4, True)]


@pytest.mark.slow
def test_a_fine_tune_is_replaced_if_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder / "runs" / "zorb"
    assert main(words(folder, "--full")) == 0
    first = weights(run)
    # Files are found from every folder.
    monkeypatch.chdir(folder)
    line = words(folder, "--full", "--learning-rate", "0.01", "--overwrite")
    line[line.index("--from") + 1], line[line.index("--data") + 1] = "stored.safetensors", "s"
    assert main(line) == 0
    second = weights(run)
    assert not same(first, second)
    monkeypatch.chdir(folder.parent)
    assert main(words(folder, "--full", "--learning-rate", "0.01")) == 0
    assert same(second, weights(run))
    assert main(words(folder, "--full", "--overwrite")) == 0
    assert same(first, weights(run))


def test_sounds_that_the_model_is_to_keep(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = folder / "keep.jsonl"
    prompts.write_text('{"prompt": "old", "seconds_total": 0.2}\n{"prompt": "older", "seconds_total": 0.1}\n')
    keep = ["--keep", str(prompts), "--keep-clips", "3"]
    assert main(words(folder, "--full", "--dry", *keep)) == 0
    said = capsys.readouterr().out
    assert "3 sounds of the model itself, half of each batch" in said
    assert "forgetting" not in said
    dataset = json.loads((folder / "runs" / "zorb" / "finetune" / "dataset.json").read_text())
    sounds, kept = dataset["datasets"]
    # 4 sounds at weight 1, and 3 at 4/3: half of what is drawn.
    assert (sounds.get("weight", 1), kept["weight"]) == (1, pytest.approx(4 / 3, abs=1e-5))
    rendered = sorted(Path(kept["path"]).glob("*.json"))
    assert [json.loads(p.read_text()).get("prompt") for p in rendered[:3]] == ["old", "older", "old"]
    assert main(words(folder, "--full", *keep)) == 0


def test_the_model_says_its_training_and_the_data_are_longer_than_its_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored_model(tmp_path, learning_rate=1e-3, timestep_sampler="log_snr")
    write_sounds(tmp_path / "s", 2, rate=8000, seconds=1.3, channels=2)
    assert main(words(tmp_path, "--full", "--prompt", "something else")) == 0
    said = capsys.readouterr().out
    assert "2 at 8000 Hz, converted to 4000 Hz" in said
    assert "2 with 2 channels, converted to 1" in said
    assert "learning rate 0.0005" in said
    files = tmp_path / "runs" / "zorb" / "finetune"
    dataset = json.loads((files / "dataset.json").read_text())
    assert (dataset["latent_crop_length"], dataset["random_crop"]) == (32, True)
    assert json.loads((files / "model.json").read_text())["training"]["timestep_sampler"] == "log_snr"
    assert "something else" in (tmp_path / "runs" / "zorb" / "before_and_after" / "index.html").read_text()


def test_shorter_clips(folder: Path) -> None:
    assert main(words(folder, "--full", "--dry", "--seconds", "0.13")) == 0
    config = json.loads((folder / "runs" / "zorb" / "finetune" / "model.json").read_text())
    assert config["sample_size"] == 512


@pytest.mark.slow
def test_memory_that_is_not_enough(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words(folder, "--full", "--dry", "--device-memory", "0.0001")) == 2
    told = capsys.readouterr()
    assert "one clip needs" in told.err
    assert "what fits    nothing that the plan knows" in told.out
    # By the plan it fits, but the trial finds the memory taken.
    monkeypatch.setattr(command, "seconds_per_step", out_of_memory)
    monkeypatch.setattr(
        command,
        "ways_that_fit",
        lambda _, plan, **settings: [Way("the first", plan), Way("the second", plan)],
    )
    assert main(words(folder, "--full", "--dry", "--overwrite")) == 2
    told = capsys.readouterr()
    assert "2 clips at once do not fit after all: 1" in told.out
    first, second = (line for line in told.out.splitlines() if ": about " in line)
    assert first.startswith("what fits    the first: about ")
    assert second.startswith("             the second: about ")
    assert f"{first.removeprefix('what fits    ')}, or another way listed above" in told.err
    assert "Traceback" not in told.err
    model = json.loads((folder / "runs" / "zorb" / "finetune" / "model.json").read_text())
    assert model["training"]["batch_size"] == 1


def out_of_memory(*_: Any, **__: Any) -> float:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


def test_what_cannot_be_fine_tuned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests import tiny
    from tests.training import building

    line = words(folder, "--full")
    section = tiny.PRETRANSFORMS["autoencoder"]
    config = {"model_type": "autoencoder", "sample_size": 1024, "sample_rate": 4000, "model": section}
    config["audio_channels"] = section["io_channels"]
    line[line.index("--from") + 1] = str(building.stored(folder / "s", ".ckpt", config))
    assert main(line) == 2
    error = capsys.readouterr().err.strip()
    assert "its model_type is autoencoder; this command fine-tunes diffusion_cond" in error
    assert len(error.splitlines()) == 1
    bare = folder / "bare.safetensors"
    save_file(load_file(folder / "stored.safetensors"), bare)
    line[line.index("--from") + 1] = str(bare)
    assert main(line) == 2
    assert "give --model-config" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["", ".ckpt"])
def test_no_model_there(folder: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = words(folder, "--full")
    line[line.index("--from") + 1] = str(folder / f"none{suffix}")
    assert main(line) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_help_names_every_type_of_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(name.removesuffix("-xs") in text for name in ADAPTER_TYPES)
    assert "-xs" in text
