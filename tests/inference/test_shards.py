"""Parts of a job, by hand and on devices: the same clips under the same names, whoever renders them."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.cli import main
from stable_audio.data.world import ALONE, World
from stable_audio.inference import Sampling
from stable_audio.inference.rendering import processes
from stable_audio.inference.rendering.jobs import Job
from stable_audio.inference.rendering.processes import DeviceOptions, DeviceRender, ProcessLost, devices_named
from stable_audio.inference.rendering.render import OutputFiles
from stable_audio.inference.rendering.request import RenderRequest
from stable_audio.inference.rendering.shards import JobPart, split
from tests.inference import tiny


@pytest.mark.parametrize(
    ("parts", "launched", "devices"), [(1, 1, 1), (3, 1, 1), (2, 3, 1), (3, 1, 2), (2, 2, 2)]
)
def test_every_clip_is_in_one_part(parts: int, launched: int, devices: int) -> None:
    worlds = [
        split(
            JobPart(part + 1, parts).within(World(rank=rank, size=launched) if launched > 1 else ALONE),
            place,
            devices,
        )
        for part in range(parts)
        for rank in range(launched)
        for place in range(devices)
    ]
    shares = [list(world.share("abcdefghijk")) for world in worlds]
    assert sorted(clip for share in shares for clip in share) == list(enumerate("abcdefghijk"))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--shard"):
        JobPart.parse(text)


def test_devices_are_named_or_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_named("cpu, cpu") == [torch.device("cpu")] * 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_named("all") == devices_named("2") == [torch.device("cuda", i) for i in range(2)]
    assert devices_named("cuda:1") == [torch.device("cuda", 1)]
    for text in ("3", "0"):
        with pytest.raises(ValueError, match=f"--devices {text}: this machine has 2 GPUs"):
            devices_named(text)
    with pytest.raises(ValueError, match="device cuda:7: this machine has no such device"):
        devices_named("cuda:0,cuda:7")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    weights, model_file = tiny.save(tmp_path_factory.mktemp("model"), tiny.config())
    return ["--ckpt-path", str(weights), "--model-config", str(model_file)]


def _files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.wav"))}


def test_parts_in_one_folder_are_the_whole(model: list[str], tmp_path: Path, capsys) -> None:
    clips = ["generate", *model, "--steps", "2", "--device", "cpu", "--seconds", "0.1"]
    clips += ["--prompt", "bell", "--prompt", "drum", "--count", "3", "--batch-size", "1"]
    assert main([*clips, "--out", str(tmp_path / "whole")]) == 0
    for part in ("2/3", "1/3", "3/3"):
        capsys.readouterr()
        assert main([*clips, "--out", str(tmp_path / "parts"), "--shard", part]) == 0
        assert "2 rendered, 0 already there" in capsys.readouterr().out
    assert _files(tmp_path / "parts") == _files(tmp_path / "whole")
    assert len(_files(tmp_path / "whole")) == 6


def _dies_once(mark: Path, _: Any) -> None:
    """Ends the process that comes first without a word, as the kernel does when memory runs out."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow  # two processes load torch
def test_a_process_that_dies_is_named_and_the_others_finish(model: list[str], tmp_path: Path, capsys) -> None:
    request = RenderRequest(
        checkpoint=model[1],
        config=model[3],
        dtype="float32",  # with "auto" each process would measure what is faster
        jobs=[Job({"prompt": name}) for name in ("bell", "drum", "wind")],
        seconds=0.1,
        sampling=Sampling(steps=2),
    )
    options = DeviceOptions(batch_size=1, check=partial(_dies_once, tmp_path / "mark"))
    output = OutputFiles(tmp_path / "out")
    paths = []
    reason = r"cpu \(before its first clip\): its process was ended by SIGKILL"
    with (
        DeviceRender(request, output, devices_named("cpu,cpu"), options) as rendered,
        pytest.raises(ProcessLost, match=reason),
    ):
        paths.extend(item.path for item in rendered)
    assert len(paths) == rendered.total in (1, 2)
    clips = ["generate", *model, "--steps", "2", "--device", "cpu", "--seconds", "0.1", "--batch-size", "1"]
    clips += ["--dtype", "float32"]
    clips += [word for name in ("bell", "drum", "wind") for word in ("--prompt", name)]
    assert main([*clips, "--out", str(tmp_path / "out")]) == 0
    assert f"{3 - len(paths)} rendered, {len(paths)} already there" in capsys.readouterr().out
    assert main([*clips, "--out", str(tmp_path / "whole")]) == 0
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "cpu,cpu", "--device", "cpu"], "--device and --devices both say where to render"),
        (["--devices", "cpu", "--shard", "3/2"], "--shard 3/2: parts are numbered from 1"),
    ],
)
def test_mistakes_are_named(model: list[str], arguments: list[str], message: str, capsys) -> None:
    assert main(["generate", *model, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_process_of_a_launcher_starts_no_others(model: list[str], monkeypatch, capsys) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert main(["generate", *model, "--prompt", "bell", "--devices", "cpu,cpu"]) == 2
    assert "--devices starts processes itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-11, "ended by SIGSEGV"),
        (-9, "SIGKILL; often because memory ran out"),
        (3, "exit status 3"),
        (-99, "signal 99"),
    ],
)
def test_endings_are_told(code: int, words: str) -> None:
    assert words in processes._ending(code)
