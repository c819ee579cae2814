from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from stable_audio.config import ConfigError
from stable_audio.data import ClipDataset, DataError, ItemKey, Rejected, create_dataset, make_loader
from stable_audio.data.latents import LatentRecord, read_shard, write_manifest, write_shard

RATE, RATIO = 1000, 10


def frames(count: int, channels: int = 2) -> torch.Tensor:
    """Frame i holds i + 1 in channel 0 and its negative in channel 1."""
    ramp = torch.arange(count, dtype=torch.float32) + 1
    return torch.stack([ramp, -ramp][:channels])


def make_npy(folder: Path, name: str, stored: int, valid: int, **metadata: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", frames(stored).numpy())
    mask = [1] * valid + [0] * (stored - valid)
    content = {"padding_mask": mask, "seconds_start": 3, "seconds_total": 9, "prompt": name, **metadata}
    (folder / f"{name}.json").write_text(json.dumps(content))


SETTINGS = {
    "autoencoder_hash": "abc",
    "autoencoder": "some.ckpt",
    "sample_rate": RATE,
    "downsampling_ratio": RATIO,
    "channels": 2,
}


def make_shards(folder: Path, lengths: list[int]) -> None:
    for number, length in enumerate(lengths):
        record = LatentRecord(f"a/{number}.wav", length, 500, 4321, {"prompt": f"p{number}"})
        write_shard(folder / "shards" / f"000-{number:06d}.safetensors", [(record, frames(length))])
    write_manifest(folder, SETTINGS)


def dataset(folder: Path, *, entry: dict | None = None, hash_: str | None = None, **keys: Any) -> ClipDataset:
    config = {
        "dataset_type": "pre_encoded",
        "datasets": [{"id": "a", "path": str(folder), **(entry or {})}],
        **keys,
    }
    return create_dataset(
        config, sample_rate=RATE, sample_size=0, downsampling_ratio=RATIO, autoencoder_hash=hash_
    )


def test_folders_of_stable_audio_tools(tmp_path: Path) -> None:
    make_npy(tmp_path / "0", "000", 50, 40)
    latents, metadata = dataset(tmp_path)[ItemKey(0, 0)]
    assert torch.equal(latents, frames(50))
    assert metadata["padding_mask"].tolist() == [1] * 40 + [0] * 10
    assert (metadata["seconds_start"], metadata["seconds_total"], metadata["prompt"]) == (3, 9, "000")


@pytest.mark.parametrize("seed", range(6))
def test_random_crops_keep_their_timing(tmp_path: Path, seed: int) -> None:
    make_npy(tmp_path, "a", 1000, 900, timestamps=[0.25, 0.75])
    latents, metadata = dataset(tmp_path, latent_crop_length=300, random_crop=True)[ItemKey(0, seed)]
    start = metadata["latent_crop_start"]
    assert torch.equal(latents, frames(1000)[:, start : start + 300])
    assert 0 <= start <= 600
    assert metadata["seconds_start"] == int(3 + start * RATIO / RATE)
    assert metadata["seconds_total"] == 9
    assert metadata["timestamps"] == pytest.approx((0.25 + start / 2000, 0.25 + (start + 300) / 2000))
    assert metadata["padding_mask"].tolist() == [1] * 300


def test_crops_of_shards_know_where_they_are(tmp_path: Path) -> None:
    make_shards(tmp_path, [380])
    for seed in range(5):
        latents, metadata = dataset(tmp_path, latent_crop_length=100, random_crop=True)[ItemKey(0, seed)]
        start = metadata["latent_crop_start"]
        assert torch.equal(latents, frames(380)[:, start : start + 100])
        at = 0.5 + start / 100
        assert metadata["seconds_start"] == int(at)
        assert metadata["seconds_total"] == 5
        assert metadata["timestamps"] == pytest.approx((at / 4.321, (at + 1) / 4.321))
    starts = {
        dataset(tmp_path, latent_crop_length=378, random_crop=True)[ItemKey(0, s)][1]["latent_crop_start"]
        for s in range(40)
    }
    assert starts == {0, 1, 2}


def test_padding_and_encoded_silence(tmp_path: Path) -> None:
    make_npy(tmp_path, "a", 20, 20)
    latents, metadata = dataset(tmp_path, latent_crop_length=30)[ItemKey(0, 0)]
    assert not latents[:, 20:].any()
    assert metadata["padding_mask"].sum() == 20
    np.save(tmp_path / "silence.npy", np.array([[7.0, 8.0, 7.0], [5.0, 6.0, 5.0]]))
    padded = dataset(tmp_path, latent_crop_length=30)
    assert len(padded) == 1
    assert padded[ItemKey(0, 0)][0][:, 25].tolist() == [8.0, 6.0]


def test_length_filters(tmp_path: Path) -> None:
    for name, seconds in (("a", 2), ("b", 5), ("c", 20)):
        make_npy(tmp_path, name, 10, 10, seconds_total=seconds)
    kept = dataset(tmp_path, min_length_sec=3.0, max_length_sec=10.0)
    assert [kept[ItemKey(i, 0)][1]["prompt"] for i in range(len(kept))] == ["b"]
    with pytest.raises(DataError, match="no clip of 3 lasts between"):
        dataset(tmp_path, min_length_sec=100.0)


def test_buckets(tmp_path: Path) -> None:
    lengths = [5, 8, 12, 16, 30, 7, 15, 3]
    make_shards(tmp_path, lengths)
    data = dataset(tmp_path, bucket_lengths=[8, 16], random_crop=True)
    assert data.buckets == [0, 0, 1, 1, 1, 0, 1, 0]
    seen = []
    for batch in make_loader(data, batch_size=2, endless=False, drop_last=False):
        widths = {tuple(m["padding_mask"].shape) for m in batch.metadata}
        assert widths == {(batch.audio.shape[-1],)}
        assert batch.audio.shape[-1] in (8, 16)
        seen += [m["prompt"] for m in batch.metadata]
        for audio, metadata in zip(batch.audio, batch.metadata):
            real = int(metadata["padding_mask"].sum())
            assert real == min(lengths[int(metadata["prompt"][1:])], batch.audio.shape[-1])
            assert not audio[:, real:].any()
    assert sorted(seen) == [f"p{i}" for i in range(8)]


def test_another_autoencoder_is_refused(tmp_path: Path) -> None:
    make_shards(tmp_path, [5])
    assert len(dataset(tmp_path, hash_="abc")) == 1
    with pytest.raises(DataError, match=r"another autoencoder \(abc, some\.ckpt\) than the model's \(xyz\)"):
        dataset(tmp_path, hash_="xyz")
    config = {"dataset_type": "pre_encoded", "datasets": [{"id": "a", "path": str(tmp_path)}]}
    with pytest.raises(DataError, match="downsampling_ratio 10, the model has 20"):
        create_dataset(config, sample_rate=RATE, sample_size=0, downsampling_ratio=20)


def test_custom_metadata_can_replace(tmp_path: Path) -> None:
    make_npy(tmp_path, "a", 6, 6)
    make_npy(tmp_path, "b", 6, 6)
    (tmp_path / "m.py").write_text(
        "def get_custom_metadata(info, latents):\n"
        "    if info['prompt'] == 'b': return {'__reject__': True}\n"
        "    return {'__replace__': latents * 2, 'prompt': 'changed'}\n"
    )
    data = dataset(tmp_path, entry={"custom_metadata_module": str(tmp_path / "m.py")})
    latents, metadata = data[ItemKey(0, 0)]
    assert torch.equal(latents, 2 * frames(6))
    assert metadata["prompt"] == "changed"
    assert "__replace__" not in metadata
    assert isinstance(data[ItemKey(1, 0)], Rejected)


def test_faulty_files_are_named(tmp_path: Path) -> None:
    for name in ("cut", "empty_mask", "list", "no_json", "not_json"):
        make_npy(tmp_path, name, 6, 0 if name == "empty_mask" else 6)
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-10])
    (tmp_path / "no_json.json").unlink()
    (tmp_path / "not_json.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    data = dataset(tmp_path)
    reasons = [data[ItemKey(i, 0)].reason for i in range(5)]
    expected = ("not an array", "zero everywhere", "JSON object", "missing beside", "is not JSON")
    assert all(part in reason for part, reason in zip(expected, reasons)), reasons


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_are_left_out(tmp_path: Path, value: float) -> None:
    make_npy(tmp_path, "bad", 6, 6)
    latents = frames(6)
    latents[1, 4] = value
    np.save(tmp_path / "bad.npy", latents.numpy())
    item = dataset(tmp_path)[ItemKey(0, 0)]
    assert isinstance(item, Rejected)
    assert "holds values that are not numbers" in item.reason
    crop = dataset(tmp_path, latent_crop_length=4, random_crop=False)[ItemKey(0, 0)]
    assert not isinstance(crop, Rejected)  # what is not used does no harm


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"latent_crop_length": 0}, "at least 1 frame"),
        ({"bucket_lengths": []}, "bucket_lengths"),
        ({"bucket_lengths": [4], "latent_crop_length": 4}, "without latent_crop_length"),
        ({"latent_crop": 4}, "did you mean 'latent_crop_length'"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, keys: dict, message: str) -> None:
    make_npy(tmp_path, "a", 6, 6)
    with pytest.raises((DataError, ConfigError), match=message):
        dataset(tmp_path, **keys)


def test_damaged_and_foreign_folders(tmp_path: Path) -> None:
    make_shards(tmp_path / "cut", [5])
    shard = next((tmp_path / "cut" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:30])
    with pytest.raises(DataError, match=r"000-000000\.safetensors: damaged shard"):
        dataset(tmp_path / "cut")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text('{"format": "else"}')
    with pytest.raises(DataError, match="not the manifest of a folder of latents"):
        dataset(tmp_path / "foreign")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no usable file"):
        dataset(tmp_path / "none")


def test_shards_and_statistics(tmp_path: Path) -> None:
    """Mean and deviation of what is sound; a crop is read without the rest; any rank of tensors."""
    torch.manual_seed(0)
    clips = [torch.randn(3, 4, n) * 2 + 1 for n in (50, 70)]
    items = [(LatentRecord(str(i), z.shape[-1] - 5, 0, 1), z) for i, z in enumerate(clips)]
    write_shard(tmp_path / "shards" / "000-000000.safetensors", items, rejected=[Rejected("x", "bad")])
    shard = read_shard(tmp_path / "shards" / "000-000000.safetensors")
    assert torch.equal(shard.read(1, 10, 20), clips[1][..., 10:20])
    assert [r.part for r in shard.records] == ["0", "1"]
    manifest = write_manifest(tmp_path, SETTINGS, ["0", "1", "x"])
    assert manifest["complete"]
    assert not write_manifest(tmp_path, SETTINGS, ["0", "1", "2"])["complete"]
    sound = torch.cat([z[..., :-5].flatten(1) for z in clips], dim=1)
    assert manifest["latents"]["mean"] == pytest.approx(float(sound.mean()), abs=1e-5)
    assert manifest["latents"]["std"] == pytest.approx(float(sound.std(correction=0)), abs=1e-5)
    assert manifest["latents"]["channel_mean"] == pytest.approx(sound.mean(1).tolist(), abs=1e-5)
    assert manifest["frames"] == 110
    assert manifest["rejected"] == [["x", "bad"]]


def test_length_filters_go_by_the_exact_length(tmp_path: Path) -> None:
    """The file of every clip has 4321 samples at 1000 Hz; `seconds_total` is rounded up to 5."""
    make_shards(tmp_path, [100])
    assert len(dataset(tmp_path, min_length_sec=4.3)) == 1
    assert dataset(tmp_path)[ItemKey(0, 0)][1]["seconds_total"] == 5
    with pytest.raises(DataError, match=r"no clip of 1 lasts between 4\.5"):
        dataset(tmp_path, min_length_sec=4.5)
    with pytest.raises(DataError, match=r"no clip of 1 lasts between 0\.0 and 4\.3"):
        dataset(tmp_path, max_length_sec=4.3)


def test_an_incomplete_folder_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_shards(tmp_path, [100])
    dataset(tmp_path)
    assert "not complete" not in caplog.text
    write_manifest(tmp_path, SETTINGS, ["a/0.wav", "a/1.wav"])
    dataset(tmp_path)
    assert "not complete, 1 clip so far" in caplog.text


@pytest.mark.parametrize("shape", [(2, 64), (1, 2, 64)])
def test_silence_with_and_without_a_batch_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    make_npy(tmp_path, "x", 20, 20)
    np.save(tmp_path / "silence.npy", np.full(shape, 7.0, dtype=np.float32))
    latents, _ = dataset(tmp_path, latent_crop_length=30)[ItemKey(0, 0)]
    assert latents[:, 20:].eq(7).all()


def test_latents_of_pictures_are_padded_with_pictures_of_silence(tmp_path: Path) -> None:
    record = LatentRecord("a/0.wav", 20, 0, 200)
    write_shard(tmp_path / "shards" / "000-000000.safetensors", [(record, torch.zeros(2, 3, 20))])
    write_manifest(tmp_path, SETTINGS)
    silence = torch.arange(6.0).view(2, 3, 1).expand(2, 3, 64)
    np.save(tmp_path / "silence.npy", silence.numpy())
    latents, _ = dataset(tmp_path, latent_crop_length=30)[ItemKey(0, 0)]
    assert latents.shape == (2, 3, 30)
    assert torch.equal(latents[..., 20:], silence[..., :10])


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("stable_audio.stored.safetensors_files.save_file", full)
    with pytest.raises(OSError, match=r"x\.safetensors was not written: .*No space left"):
        write_shard(tmp_path / "x.safetensors", [(LatentRecord("a", 5, 0, 50), frames(5))])
    assert not list(tmp_path.iterdir())


def test_shards_are_readable_by_whoever_may_read_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_shard(tmp_path / "x.safetensors", [(LatentRecord("a", 5, 0, 50), frames(5))])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o640


def test_sizes_are_samples_of_the_files_that_were_encoded_or_bytes(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", [30, 40])
    assert list(dataset(tmp_path / "shards").item_sizes()) == [4321, 4321]
    for name, stored in (("000", 50), ("001", 70)):
        make_npy(tmp_path / "npy", name, stored, stored)
    np.save(tmp_path / "npy" / "silence.npy", frames(5).numpy())
    made = dataset(tmp_path / "npy", min_length_sec=0.0)
    assert list(made.item_sizes()) == [
        (tmp_path / "npy" / name).stat().st_size for name in ("000.npy", "001.npy")
    ]
