"""A batch that ends at any write, killed or on a full disk, goes on where it was and loses nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import read_audio
from stable_audio.cli import main
from stable_audio.inference import Sampling
from stable_audio.inference.rendering.jobs import Job
from stable_audio.inference.rendering.render import OutputFiles
from stable_audio.inference.rendering.request import RenderRequest, RenderTask
from tests.inference import tiny

WRITES = 6
"""A sound and its JSON for each of three clips."""

NAMES = ["{index}_{name}_{digest}", "{prompt}"]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> RenderTask:
    weights, model_file = tiny.save(tmp_path_factory.mktemp("model"), tiny.config())
    jobs = [Job({"prompt": name}) for name in ("bell", "drum", "wind")]
    sampling = Sampling(steps=1)
    request = RenderRequest(
        checkpoint=weights, config=str(model_file), jobs=jobs, seconds=0.1, sampling=sampling
    )
    return request.task(request.load())


class Killed(BaseException):
    """Nothing in the package catches it, as nothing catches SIGKILL."""


def _fails_at(number: int, failure: Callable[[], BaseException], real: Any) -> Callable[..., Any]:
    calls = 0

    def replaced(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise failure()
        return real(*args, **kwargs)

    return replaced


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FAULTS = {"full": ("fsync", _full), "killed": ("replace", Killed), "full at the rename": ("replace", _full)}


def _same(sounds: Iterable[Path], others: Path) -> bool:
    """Whether the sounds are those of the same names in `others`, but for the order of sums in a batch."""
    return all(torch.allclose(read_audio(p)[0], read_audio(others / p.name)[0], atol=1e-5) for p in sounds)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_render_goes_on_after_any_write(
    fault: str, name: str, task: RenderTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, failure = FAULTS[fault]
    whole = tmp_path / "whole"
    list(task.render(OutputFiles(whole, name=name, subtype="FLOAT"), batch_size=2))
    real = getattr(os, function)
    for number in range(1, WRITES + 1):
        folder = tmp_path / str(number)
        output = OutputFiles(folder, name=name, subtype="FLOAT")
        monkeypatch.setattr(os, function, _fails_at(number, failure, real))
        with pytest.raises((Killed, OSError)):
            list(task.render(output, batch_size=2))
        monkeypatch.setattr(os, function, real)
        # What has its JSON is whole, and nothing else is left that looks like a clip.
        finished = sorted(p.stem for p in folder.glob("*.json"))
        assert _same((folder / f"{stem}.wav" for stem in finished), whole)
        assert len(finished) == (number - 1) // 2
        again = list(task.render(output, batch_size=2))
        assert sum(item.skipped for item in again) == len(finished)
        assert _same(folder.glob("*.wav"), whole)
        assert {p.name for p in folder.iterdir()} == {p.name for p in whole.iterdir()}


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    weights, model_file = tiny.save(tmp_path / "model", tiny.config())
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file), "--prompt", "bell"]
    monkeypatch.setattr(os, "fsync", _fails_at(2, _full, os.fsync))
    assert main([*command, "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    (sound,) = (tmp_path / "out").glob("*.wav")
    assert line.startswith(f"error: {sound.with_suffix('.json')}: the disk is full")
    assert line.endswith("what is finished stays")
