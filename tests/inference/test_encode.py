from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stable_audio.audio.io import read_audio, save_audio
from stable_audio.data import DataError, ItemKey, create_dataset
from stable_audio.data.latent_sources import open_folder
from stable_audio.data.latents import read_manifest, shards
from stable_audio.data.parts import DatasetParts, FileParts
from stable_audio.inference.codec.decode import decode_folder, sound_name, sound_names
from stable_audio.inference.codec.encode import encode_to_folder
from stable_audio.inference.codec.latents import EncodeOptions
from stable_audio.pretransforms import PRETRANSFORMS
from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.pretransforms.autoencoder_pretransform import AutoencoderPretransform
from stable_audio.pretransforms.bottlenecks import BOTTLENECKS
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.pretransforms.oobleck import OobleckDecoder, OobleckEncoder
from stable_audio.pretransforms.patched import PatchedPretransform
from tests.audio.sounds import chirp
from tests.data.folders import RATE, make_folder, ramp
from tests.data.test_wds import make_tar


def patched() -> PatchedPretransform:
    return PatchedPretransform(channels=1, patch_size=8)


def tiny_vae(scale: float = 1.0, seed: int = 0) -> AutoencoderPretransform:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Autoencoder(
            encoder=OobleckEncoder(in_channels=1, channels=4, latent_dim=8, c_mults=[1, 2], strides=[2, 4]),
            decoder=OobleckDecoder(out_channels=1, channels=4, latent_dim=4, c_mults=[1, 2], strides=[2, 4]),
            bottleneck=BOTTLENECKS["vae"](),
            latent_dim=4,
            downsampling_ratio=8,
            io_channels=1,
        )
    return AutoencoderPretransform(model=model, scale=scale)


def files(root: Path, *, crop: int | None = None) -> FileParts:
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(root)}], "phase_flip": 1.0}
    dataset = create_dataset(config, sample_rate=RATE, sample_size=1, audio_channels=1, augment=False)
    return FileParts(dataset, crop=crop, multiple=8)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "in", {"long.wav": 2003, "sub/short.flac": 77, "mid.wav": 800})


def latents_of(folder: Path) -> dict[str, torch.Tensor]:
    return {r.part: s.read(i) for s in shards(folder) for i, r in enumerate(s.records)}


def test_whole_files_and_back(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    manifest = encode_to_folder(patched(), files(sounds), out, sample_rate=RATE, options=EncodeOptions())
    assert manifest["complete"]
    assert (manifest["items"], manifest["frames"]) == (3, 251 + 10 + 100)
    assert manifest["hours"] == pytest.approx(361 * 8 / RATE / 3600)
    found = latents_of(out)
    assert found["a/long.wav"].shape == (8, 251)
    written = list(decode_folder(patched(), out, tmp_path / "back", sample_rate=RATE))
    assert len(written) == 3
    for name, length in (("a/long.wav", 2003), ("a/sub/short.wav", 77), ("a/mid.wav", 800)):
        assert torch.equal(read_audio(tmp_path / "back" / name)[0], ramp(length))
    again = decode_folder(patched(), out, tmp_path / "back", sample_rate=RATE)
    assert list(again) == [None] * 3


def test_crops_have_exact_timing(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    options = EncodeOptions(batch_size=2, items_per_shard=2)
    encode_to_folder(patched(), files(sounds, crop=800), out, sample_rate=RATE, options=options)
    records = {r.part: r for s in shards(out) for r in s.records}
    expected = {"a/long.wav@0": (0, 100), "a/long.wav@800": (800, 100), "a/long.wav@1600": (1600, 51)}
    expected |= {"a/mid.wav@0": (0, 100), "a/sub/short.flac@0": (0, 10)}
    assert {k: (r.offset, r.frames) for k, r in records.items()} == expected
    assert records["a/long.wav@800"].total == 2003
    config = {"dataset_type": "pre_encoded", "datasets": [{"id": "z", "path": str(out)}]}
    data = create_dataset(config, sample_rate=RATE, sample_size=800, downsampling_ratio=8)
    names = [data[ItemKey(i, 0)][1] for i in range(len(data))]
    middle = next(m for m in names if m["latent_filename"] == "a/long.wav@1600")
    assert middle["timestamps"] == pytest.approx((1600 / 2003, 2400 / 2003))
    assert middle["padding_mask"].tolist() == [1] * 51 + [0] * 49


def test_a_file_whose_rate_has_no_sample_in_common_within_a_crop_is_named(tmp_path: Path) -> None:
    for name, frames in (("long.wav", 3 * RATE), ("short.wav", 300)):
        save_audio(tmp_path / name, 0.1 * torch.ones(1, frames), RATE - 1)
    parts = files(tmp_path, crop=400)
    assert [part.name for part in parts.parts] == ["a/short.wav@0"]
    assert [Path(problem.path).name for problem in parts.problems] == ["long.wav"]
    assert f"{RATE - 1} Hz, and {RATE} Hz have a sample in common only every {RATE} samples" in (
        parts.problems[0].reason
    )


def test_no_augmentation_whatever_the_file_says(sounds: Path, tmp_path: Path) -> None:
    """phase_flip is 1 in these tests; latents of the patched transform are the samples themselves."""
    encode_to_folder(patched(), files(sounds), tmp_path / "z", sample_rate=RATE, options=EncodeOptions())
    assert latents_of(tmp_path / "z")["a/mid.wav"].min() > 0


def test_latents_do_not_depend_on_how_the_work_is_split(sounds: Path, tmp_path: Path) -> None:
    """Batch size, workers, ranks: each item's noise is its own."""
    model = tiny_vae()
    one, two = tmp_path / "one", tmp_path / "two"
    encode_to_folder(model, files(sounds, crop=400), one, sample_rate=RATE, options=EncodeOptions())
    for rank in range(2):
        options = EncodeOptions(batch_size=3, num_workers=1, rank=rank, world_size=2, items_per_shard=2)
        manifest = encode_to_folder(model, files(sounds, crop=400), two, sample_rate=RATE, options=options)
    assert manifest["complete"]
    a, b = latents_of(one), latents_of(two)
    assert a.keys() == b.keys()
    for part, latents in a.items():
        assert torch.allclose(latents, b[part], atol=1e-6), part
    means = tiny_vae().encode(ramp(400)[None], noise=torch.zeros_like)[0]
    assert not torch.allclose(a["a/long.wav@0"], means, atol=1e-3)


def test_an_interrupted_run_goes_on(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "z"

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Stop

    options = EncodeOptions(items_per_shard=2)
    with pytest.raises(Stop):
        encode_to_folder(
            tiny_vae(), files(sounds, crop=400), out, sample_rate=RATE, options=options, progress=stop
        )
    before = {p: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    assert len(latents_of(out)) == 3
    assert not read_manifest(out)["complete"]
    (out / "shards" / ".000-000009.deadbeef.partial.safetensors").write_bytes(b"left by a kill")
    manifest = encode_to_folder(tiny_vae(), files(sounds, crop=400), out, sample_rate=RATE, options=options)
    assert manifest["complete"]
    assert manifest["items"] == 6 + 2 + 1
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert not list((out / "shards").glob(".*"))
    whole = tmp_path / "whole"
    encode_to_folder(tiny_vae(), files(sounds, crop=400), whole, sample_rate=RATE, options=options)
    expected = latents_of(whole)
    for part, latents in latents_of(out).items():
        assert torch.equal(latents, expected[part])


def test_other_settings_need_another_folder(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "z"
    encode_to_folder(tiny_vae(), files(sounds), out, sample_rate=RATE, options=EncodeOptions())
    encode_to_folder(tiny_vae(scale=3.0), files(sounds), out, sample_rate=RATE, options=EncodeOptions())
    with pytest.raises(DataError, match="autoencoder_hash was"):
        encode_to_folder(tiny_vae(seed=1), files(sounds), out, sample_rate=RATE, options=EncodeOptions())
    with pytest.raises(DataError, match="made by another autoencoder"):
        list(decode_folder(tiny_vae(seed=1), out, tmp_path / "back", sample_rate=RATE))


def test_latents_are_stored_without_the_scale(sounds: Path, tmp_path: Path) -> None:
    for name, scale in (("a", 1.0), ("b", 4.0)):
        encode_to_folder(
            tiny_vae(scale), files(sounds), tmp_path / name, sample_rate=RATE, options=EncodeOptions()
        )
    a, b = latents_of(tmp_path / "a"), latents_of(tmp_path / "b")
    assert torch.allclose(a["a/mid.wav"], b["a/mid.wav"], atol=1e-5)
    decoded = [
        next(decode_folder(tiny_vae(s), tmp_path / "a", tmp_path / f"out{s}", sample_rate=RATE))
        for s in (1.0, 4.0)
    ]
    assert torch.equal(*(read_audio(d.path)[0] for d in decoded))


def test_long_files_go_in_chunks(tmp_path: Path) -> None:
    save_audio(tmp_path / "in" / "a.wav", chirp(2.0, RATE, 1), RATE)
    for name, chunk_above in (("whole", None), ("chunked", 400)):
        options = EncodeOptions(chunk_above=chunk_above)
        encode_to_folder(
            patched(), files(tmp_path / "in"), tmp_path / name, sample_rate=RATE, options=options
        )
    whole, chunked = (latents_of(tmp_path / n)["a/a.wav"] for n in ("whole", "chunked"))
    assert whole.shape == chunked.shape == (8, 2000)
    assert torch.allclose(whole, chunked, atol=1e-6)


def test_what_cannot_be_read_is_named_once(sounds: Path, tmp_path: Path) -> None:
    (sounds / "text.wav").write_text("no sound")
    save_audio(sounds / "silent.wav", torch.zeros(1, 500), RATE)
    for _ in range(2):
        manifest = encode_to_folder(
            patched(), files(sounds), tmp_path / "z", sample_rate=RATE, options=EncodeOptions()
        )
    assert manifest["complete"]
    names = [Path(path).name for path, _ in manifest["rejected"]]
    assert sorted(names) == ["silent.wav", "text.wav"]
    assert len(list(shards(tmp_path / "z"))) == 1


def test_other_datasets_and_half_precision(tmp_path: Path) -> None:
    dataset = create_dataset(
        {"dataset_type": "synthetic", "num_clips": 6}, sample_rate=RATE, sample_size=RATE, audio_channels=1
    )
    manifest = encode_to_folder(
        patched(), DatasetParts(dataset), tmp_path / "z", sample_rate=RATE, options=EncodeOptions(half=True)
    )
    assert manifest["items"] == 6
    source = open_folder(str(tmp_path / "z"))
    _, valid, metadata = source.describe(0)
    assert metadata["prompt"] == dataset[ItemKey(0, 0)][1]["prompt"]
    assert torch.allclose(
        patched().decode(source.read(0, 0, valid)[None])[0],
        dataset[ItemKey(0, 0)][0][:, : valid * 8],
        atol=1e-3,
    )


def test_silence_is_stored(sounds: Path, tmp_path: Path) -> None:
    model = tiny_vae(scale=2.0)
    encode_to_folder(model, files(sounds), tmp_path / "z", sample_rate=RATE, options=EncodeOptions())
    stored = np.load(tmp_path / "z" / "silence.npy")
    expected = model.encode(torch.zeros(1, 1, 512), noise=torch.zeros_like)[0] * 2.0
    assert np.allclose(stored, expected.detach().numpy(), atol=1e-6)


def test_the_hash_sees_weights_and_nothing_else() -> None:
    model = tiny_vae()
    found = pretransform_hash(model)
    assert pretransform_hash(tiny_vae(scale=9.0)) == found
    assert pretransform_hash(tiny_vae(seed=1)) != found
    model.model.half()
    assert pretransform_hash(model) == found
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    assert pretransform_hash(model) != found


def test_sound_names() -> None:
    assert sound_name("a/kick.1.wav@800") == "a/kick.1@800"
    assert sound_name("/data/x/b.npy", "/data/x") == "b"
    assert not sound_name("../../etc/passwd.wav").startswith("..")


def test_metadata_that_json_cannot_hold_is_left_out(tmp_path: Path) -> None:
    make_folder(tmp_path / "in", {"a.wav": 100})
    (tmp_path / "m.py").write_text(
        "import torch\n"
        "def get_custom_metadata(info, audio):\n"
        "    return {'big': torch.zeros(1000), 'small': torch.tensor([1, 2]), 'what': object(), 'bpm': 90}\n"
    )
    entry = {"id": "a", "path": str(tmp_path / "in"), "custom_metadata_module": str(tmp_path / "m.py")}
    dataset = create_dataset(
        {"dataset_type": "audio_dir", "datasets": [entry]},
        sample_rate=RATE,
        sample_size=1,
        audio_channels=1,
        augment=False,
    )
    encode_to_folder(
        patched(), FileParts(dataset, multiple=8), tmp_path / "z", sample_rate=RATE, options=EncodeOptions()
    )
    stored = next(shards(tmp_path / "z")).records[0].metadata
    assert stored["small"] == [1, 2]
    assert stored["bpm"] == 90
    assert "big" not in stored
    assert "what" not in stored
    json.dumps(stored)


def test_a_signal_right_after_a_file_was_written_doubles_nothing(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stable_audio.inference.codec.shard_writer as module

    real, calls = module.write_shard, []

    def interrupted_once(*args: object, **keywords: object) -> None:
        real(*args, **keywords)
        calls.append(args[0])
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_shard", interrupted_once)
    out, options = tmp_path / "latents", EncodeOptions(items_per_shard=2)
    with pytest.raises(KeyboardInterrupt):
        encode_to_folder(patched(), files(sounds), out, sample_rate=RATE, options=options)
    encode_to_folder(patched(), files(sounds), out, sample_rate=RATE, options=options)
    stored = [r.part for s in shards(out) for r in s.records]
    assert len(stored) == len(set(stored)) == 3


def test_tars_are_encoded_whole_and_in_crops(tmp_path: Path) -> None:
    """A `wds` dataset crops what it gives to training; encoding takes every sample to its end."""
    make_tar(tmp_path / "tars" / "a.tar", 2)
    config = {"dataset_type": "wds", "datasets": [{"id": "t", "path": str(tmp_path / "tars")}]}
    dataset = create_dataset(config, sample_rate=RATE, sample_size=16, audio_channels=1, augment=False)
    out = tmp_path / "whole"
    manifest = encode_to_folder(
        patched(), FileParts(dataset, multiple=8), out, sample_rate=RATE, options=EncodeOptions()
    )
    assert (manifest["items"], manifest["frames"]) == (2, 2 * 375)
    list(decode_folder(patched(), out, tmp_path / "back", sample_rate=RATE))
    assert torch.equal(read_audio(tmp_path / "back/t/a.tar/deep/folder/0001.wav")[0], ramp(3000))
    pieces = FileParts(dataset, crop=800, multiple=8)
    encode_to_folder(patched(), pieces, tmp_path / "crops", sample_rate=RATE, options=EncodeOptions())
    source = open_folder(str(tmp_path / "crops"))
    found = {source.name(i): source.describe(i) for i in range(len(source))}
    assert len(found) == 2 * 4
    stored, valid, metadata = found["t/a.tar/deep/folder/0000.wav@2400"]
    assert (stored, valid) == (100, 75)
    assert (metadata["start_seconds"], metadata["file_seconds"]) == (2400 / RATE, 3000 / RATE)
    assert metadata["prompt"] == "clip 0"


def test_a_file_that_was_replaced_is_noticed(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "z"
    encode_to_folder(patched(), files(sounds), out, sample_rate=RATE, options=EncodeOptions())
    make_folder(sounds, {"mid.wav": 808})
    with pytest.raises(DataError, match=r"changed since .a/mid\.wav had 800 samples, and now has 808"):
        encode_to_folder(patched(), files(sounds), out, sample_rate=RATE, options=EncodeOptions())


def test_clips_of_another_source_are_told(
    sounds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "z"
    encode_to_folder(patched(), files(sounds), out, sample_rate=RATE, options=EncodeOptions())
    (sounds / "mid.wav").unlink()
    encode_to_folder(patched(), files(sounds), out, sample_rate=RATE, options=EncodeOptions())
    assert "1 clips there are not in the source (a/mid.wav, ...)" in caplog.text


def test_files_that_differ_in_their_suffix_keep_it(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", {"kick.wav": 80, "kick.flac": 160, "snare.wav": 80})
    encode_to_folder(patched(), files(root), tmp_path / "z", sample_rate=RATE, options=EncodeOptions())
    written = list(decode_folder(patched(), tmp_path / "z", tmp_path / "back", sample_rate=RATE))
    assert None not in written
    assert sorted(p.name for p in (tmp_path / "back" / "a").iterdir()) == [
        "kick.flac.wav",
        "kick.wav.wav",
        "snare.wav",
    ]
    assert read_audio(tmp_path / "back" / "a" / "kick.flac.wav")[0].shape[-1] == 160
    assert sound_names(["a/x.wav@0", "a/x.flac@0", "a/x.wav@8"]) == ["a/x.wav@0", "a/x.flac@0", "a/x@8"]


def test_the_hash_sees_settings_that_change_latents() -> None:
    def of(name: str, **options: Any) -> str:
        return pretransform_hash(PRETRANSFORMS[name](**options))

    plain = of("spectrogram", channels=1)
    assert plain == of("spectrogram", channels=1)
    assert len({plain, *(of("spectrogram", channels=1, **o) for o in ({"power": 1.0}, {"scale": 2.0}))}) == 3
    mel = {"channels": 1, "sample_rate": RATE}
    assert len({of("mel_spectrogram", **mel, **o) for o in ({}, {"floor_db": -80.0}, {"std": 2.0})}) == 3
    assert of("mel_spectrogram", **mel) == of("mel_spectrogram", **mel, iterations=4, seed=1)


def test_a_gain_is_applied_once(sounds: Path, tmp_path: Path) -> None:
    """The `scale` of a spectrogram belongs to its latents, stored or not."""
    pretransform = PRETRANSFORMS["spectrogram"](channels=1, n_fft=32, hop_length=8, scale=3.0)
    encode_to_folder(pretransform, files(sounds), tmp_path / "z", sample_rate=RATE, options=EncodeOptions())
    fresh = pretransform.encode(ramp(800)[None])[0]
    assert torch.allclose(latents_of(tmp_path / "z")["a/mid.wav"], fresh, atol=1e-6)
    list(decode_folder(pretransform, tmp_path / "z", tmp_path / "back", sample_rate=RATE))
    back = read_audio(tmp_path / "back" / "a" / "mid.wav")[0]
    assert torch.allclose(back, ramp(800), atol=1e-4)


def test_metadata_is_that_of_training_on_sound(tmp_path: Path) -> None:
    """What a dataset says of its clips reaches the conditioners the same way through latents."""
    config = {"dataset_type": "synthetic"}
    dataset = create_dataset(config, sample_rate=RATE, sample_size=8000, augment=False)
    parts = DatasetParts(dataset)
    parts.parts = parts.parts[:3]
    encode_to_folder(patched(), parts, tmp_path / "z", sample_rate=RATE, options=EncodeOptions())
    stored = create_dataset(
        {"dataset_type": "pre_encoded", "datasets": [{"id": "z", "path": str(tmp_path / "z")}]},
        sample_rate=RATE,
        sample_size=8000,
        downsampling_ratio=8,
    )
    for index in range(3):
        expected, found = dataset[ItemKey(index, index)][1], stored[ItemKey(index, 0)][1]
        for key in ("prompt", "seconds_start", "seconds_total"):
            assert found[key] == expected[key], key
        frames_ = -(-int(expected["padding_mask"].sum()) // 8)
        assert int(found["padding_mask"].sum()) == frames_


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"items_per_shard": 0}, "items_per_shard"),
        ({"chunk_above": -1}, "-1"),
    ],
)
def test_options_out_of_range(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncodeOptions(**options)
