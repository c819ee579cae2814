"""What has changed between two starts of a run is named, and in its record."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import soundfile
import torch

from stable_audio.training.batches.feed import AT_ONCE, RunData, digest_of
from stable_audio.training.callbacks.recording import RecordData
from stable_audio.training.options import RunOptions
from stable_audio.training.record.changed_start import name_changed_clips, name_changed_options
from stable_audio.training.record.run_record import RunRecord
from stable_audio.training.record.start_files import record_run
from tests.training.building import tiny_config, tiny_run


def _incidents(folder: Path, kind: str) -> list[str]:
    record = json.loads((folder / "run" / "run.json").read_text())
    return [entry["text"] for entry in record["incidents"] if entry["kind"] == kind]


def _sounds(folder: Path, count: int) -> dict[str, object]:
    folder.mkdir()
    for number in range(count):
        sound = torch.rand(2000, generator=torch.Generator().manual_seed(number)) - 0.5
        soundfile.write(folder / f"{number}.wav", sound.numpy(), 4000)
    return {"dataset_type": "audio_dir", "datasets": [{"id": "sounds", "path": str(folder)}]}


def test_options_and_settings_that_change_are_in_the_record(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    config = tiny_config(learning_rate=2e-3)
    again = {"recover": True, "batch_size": 4, "dataset": {"dataset_type": "synthetic", "seed": 5}}
    run = tiny_run(tmp_path, config, max_steps=2, **again)
    assert run.start() == 0
    texts = "\n".join(_incidents(tmp_path, "changed setting"))
    clips = (
        "a step had 2 clips (1 process x 2) and has 4 clips (1 process x 4), so that the order of the data"
    )
    assert clips in texts
    assert "--batch-size" not in texts
    assert "dataset.json, $.seed: " in texts
    assert "--recover" not in texts
    assert "--max-steps" not in texts


def _start_twice(
    folder: Path,
    before: tuple[int, ...],
    now: tuple[int, ...],
    *,
    strategies: tuple[str, str] = ("auto", "auto"),
) -> None:
    """Record a start and one that goes on: each with (processes, clips per batch, batches per step)."""
    record = RunRecord(folder / "run.json")
    for (processes, clips, batches), strategy, resumed in zip(
        (before, now), strategies, (None, folder / "last.ckpt")
    ):
        options = RunOptions(
            save_dir=str(folder),
            batch_size=clips,
            accum_batches=batches,
            # What they mean is in the clips of a step.
            global_batch_size=None if resumed is None else processes * clips * batches,
            devices=str(processes),
            strategy=strategy,
        )
        record_run(record, options, {}, processes=processes, resumed_from=resumed)
        record.ended({"kind": "finished"})


@pytest.mark.parametrize(
    ("before", "now"), [((2, 2, 1), (1, 4, 1)), ((1, 4, 2), (4, 1, 2)), ((2, 2, 1), (2, 2, 1))]
)
def test_the_same_clips_on_another_number_of_processes_are_no_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: tuple[int, ...], now: tuple[int, ...]
) -> None:
    _start_twice(tmp_path, before, now)
    assert not caplog.records


@pytest.mark.parametrize(
    ("option", "before", "now", "same"),
    [
        ("precision", "32", "32-true", True),
        ("precision", "bf16", "bf16-mixed", True),
        ("precision", "16-mixed", "16", True),
        ("precision", "32", "bf16", False),
        ("accelerator", "cuda", "gpu", True),
        ("accelerator", "cpu", "gpu", False),
    ],
)
def test_names_that_mean_the_same_are_no_change(
    caplog: pytest.LogCaptureFixture, option: str, before: str, now: str, same: bool
) -> None:
    """Records of earlier versions have the names that were given."""
    last = {"processes": 1, "options": {"strategy": "auto", option: before}}
    name_changed_options([last], {**asdict(RunOptions()), option: now}, processes=1)
    assert (f"--{option} was" not in caplog.text) == same


DIFFER = "so that the order of the data and the noise differ from here"


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        (
            (2, 2, 1),
            (1, 3, 1),
            f"a step had 4 clips (2 processes x 2) and has 3 clips (1 process x 3), {DIFFER}; "
            "--global-batch-size 4 keeps them",
        ),
        (
            (2, 2, 1),
            (1, 2, 1),
            f"a step had 4 clips (2 processes x 2) and has 2 clips (1 process x 2), {DIFFER}; "
            "--global-batch-size 4 keeps them",
        ),
        (
            (2, 2, 1),
            (3, 2, 1),
            f"a step had 4 clips (2 processes x 2) and has 6 clips (3 processes x 2), {DIFFER}; "
            "--global-batch-size 4 keeps them on a number of processes that divides 4",
        ),
        (  # as many clips per step, but each batch draws noise of its own
            (2, 2, 1),
            (1, 2, 2),
            f"a step had 4 clips (2 processes x 2) and has 4 clips (1 process x 2 x 2 batches), {DIFFER}; "
            "--global-batch-size 4 with --accum-batches 1 keeps them",
        ),
        (
            (1, 2, 1),
            (1, 2, 3),
            "a step had 2 clips (1 process x 2) and has 6 clips (1 process x 2 x 3 batches), so that steps "
            "differ from here; --global-batch-size 2 with --accum-batches 1 keeps them",
        ),
    ],
)
def test_other_clips_per_step_are_named_with_the_flag_that_keeps_them(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    before: tuple[int, ...],
    now: tuple[int, ...],
    sentence: str,
) -> None:
    _start_twice(tmp_path, before, now)
    assert [record.getMessage() for record in caplog.records] == [f"changed since the last start: {sentence}"]


def test_strategies_that_are_the_same_for_one_process_are_no_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _start_twice(tmp_path / "one", (1, 2, 1), (1, 2, 1), strategies=("auto", "fsdp"))
    _start_twice(tmp_path / "same", (2, 2, 1), (2, 2, 1), strategies=("auto", "ddp"))
    _start_twice(tmp_path / "fewer", (2, 2, 1), (1, 4, 1), strategies=("fsdp", "fsdp"))
    assert not caplog.records
    _start_twice(tmp_path / "two", (2, 2, 1), (2, 2, 1), strategies=("auto", "fsdp"))
    assert '--strategy was "auto" and is "fsdp"' in caplog.text


def test_a_record_without_the_number_of_processes_names_no_clips(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    starts = [{"options": {"batch_size": 2, "seed": 1}}]
    name_changed_options(starts, {"batch_size": 4, "accum_batches": 1, "seed": 2}, processes=1)
    assert [record.getMessage() for record in caplog.records] == [
        "changed since the last start: --seed was 1 and is 2"
    ]


def test_nothing_changed_is_no_incident(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    assert tiny_run(tmp_path, max_steps=2, recover=True).start() == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["incidents"] == []


def test_a_dataset_that_loses_half_of_its_files_is_named_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = _sounds(tmp_path / "sounds", 12)
    tiny_run(tmp_path, max_steps=5, dataset=dataset).start()
    for number in range(6):
        (tmp_path / "sounds" / f"{number}.wav").unlink()
    assert tiny_run(tmp_path, max_steps=9, dataset=dataset, recover=True).start() == 0
    (text,) = _incidents(tmp_path, "changed data")
    assert "12 clips then, 6 now" in text
    for path in (tmp_path / "sounds").glob("*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match=r"sounds"):  # in one sentence
        tiny_run(tmp_path, max_steps=12, dataset=dataset, recover=True).start()


def test_a_file_that_another_one_replaces_under_its_name_is_named(tmp_path: Path) -> None:
    dataset = _sounds(tmp_path / "sounds", 12)
    tiny_run(tmp_path, max_steps=2, dataset=dataset).start()
    assert tiny_run(tmp_path, max_steps=3, dataset=dataset, recover=True).start() == 0
    assert not _incidents(tmp_path, "changed data")
    with open(tmp_path / "sounds" / "7.wav", "ab") as file:
        file.write(b"\0\0")
    assert tiny_run(tmp_path, max_steps=4, dataset=dataset, recover=True).start() == 0
    (text,) = _incidents(tmp_path, "changed data")
    assert "of its 12 clips, which have the same names, some are of another size" in text


def test_the_digest_of_sizes_does_not_depend_on_the_order_of_files() -> None:
    """Nor is it there where sizes are not known."""

    def digest(sizes: dict[str, int]) -> str | None:
        clips = SimpleNamespace(
            item_names=lambda: list(sizes), item_sizes=lambda: [s for s in sizes.values() if s]
        )
        data = RunData(lambda rank, size: None)  # type: ignore[arg-type, return-value]
        data.timed = SimpleNamespace(loader=SimpleNamespace(dataset=clips))  # type: ignore[assignment]
        return data.sizes_digest()

    first = digest({"a": 1, "b": 2})
    assert first == digest({"b": 2, "a": 1}) == hashlib.sha256(bytes([1, *[0] * 7, 2, *[0] * 7])).hexdigest()
    assert first != digest({"a": 2, "b": 1})
    assert digest({"a": 1, "b": 0}) is None
    assert digest({}) is None


def _many(count: int, renamed: int = -1) -> RunData:
    """Data with so many clips, of which one has another name."""
    names = [f"folder/{number:07d}.wav" for number in range(count)]
    if renamed >= 0:
        names[renamed] = "folder/another.wav"

    class Clips:
        ignored: ClassVar[Counter[str]] = Counter()

        def __len__(self) -> int:
            return count

        def item_names(self) -> list[str]:
            return names

        def item_sizes(self) -> Sequence[int]:
            return range(count)

    data = RunData(lambda rank, size: None)  # type: ignore[arg-type, return-value]
    data.timed = SimpleNamespace(loader=SimpleNamespace(dataset=Clips()))  # type: ignore[assignment]
    return data


def _started(folder: Path, data: RunData) -> dict[str, Any]:
    record = RunRecord(folder / "run.json")
    with record.listening():
        record.started({"started": "now", "resumed_from": "last.ckpt"})
        RecordData(record, data).on_train_start(SimpleNamespace(world_size=1), None)  # type: ignore[arg-type]
    record.ended({})
    return record.content


def test_one_of_very_many_clips_that_has_another_name_is_seen(tmp_path: Path) -> None:
    count = 300_001
    _started(tmp_path, _many(count))
    assert not [e for e in _started(tmp_path, _many(count))["incidents"] if e["kind"] == "changed data"]
    content = _started(tmp_path, _many(count, renamed=200_000))
    (change,) = (entry["text"] for entry in content["incidents"] if entry["kind"] == "changed data")
    assert f"{count} clips then, {count} now" in change


def test_a_record_without_sizes_says_nothing_of_them(caplog: pytest.LogCaptureFixture) -> None:
    """As earlier versions wrote."""
    before = {"data": {"clips": 4, "names_sha256": "a"}}
    name_changed_clips([before], {"clips": 4, "names_sha256": "a", "sizes_sha256": "b"})
    assert not caplog.records


def test_a_record_without_a_digest_says_nothing_of_names(caplog: pytest.LogCaptureFixture) -> None:
    """As earlier versions wrote for many clips."""
    before = {"data": {"clips": 400_000, "names_sha256": None}}
    name_changed_clips([before], {"clips": 400_000, "names_sha256": "a"})
    assert not caplog.records
    name_changed_clips([before], {"clips": 399_999, "names_sha256": "a"})
    assert "the dataset has changed since the last start: 400000 clips then, 399999 now" in caplog.text


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE])
def test_the_digest_is_that_of_all_names_on_lines(count: int) -> None:
    names = [f"{number}\udc80" for number in range(count)]
    whole = "\n".join(names).encode(errors="surrogateescape")
    assert digest_of(names) == hashlib.sha256(whole).hexdigest()
