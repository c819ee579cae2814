"""clap_text and clap_audio around a tiny CLAP, from a folder of transformers or a file of LAION-CLAP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.audio.io import save_audio
from stable_audio.conditioning.clap_audio import ClapAudioConditioner
from stable_audio.conditioning.clap_text import ClapTextConditioner
from stable_audio.conditioning.pretrained.clap_features import ClapFeatures
from tests.conditioning import tiny_encoders as tiny
from tests.host_waits import DEVICE, no_waits

pytest.importorskip("transformers")

RATE = 48_000


def place(tmp_path: Path, kind: str, fusion: bool = True) -> tuple[str, Any]:
    """A CLAP on disk in one of its forms, beside its tokenizer."""
    network = tiny.save_clap(tmp_path, fusion)
    if kind == "folder":
        return str(tmp_path), network
    prefix = {"laion": "module.", "bare": "", "deep": "module.clap."}[kind]
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).unlink()
    tiny.save_laion(tmp_path / "clap.pt", network, prefix)
    return str(tmp_path / "clap.pt"), network


def tokens(network: Any, folder: Path, texts: list[str], length: int = 77) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    batch = tokenizer(texts, **options)
    return {k: batch[k] for k in ("input_ids", "attention_mask")}


def embedding(output: Any) -> Tensor:
    """What `get_*_features` returns, a tensor in earlier versions of transformers."""
    return F.normalize(getattr(output, "pooler_output", output), dim=-1)


@pytest.mark.parametrize("kind", ["folder", "laion", "bare", "deep"])
def test_text_embeddings_are_those_of_the_whole_model(tmp_path: Path, kind: str) -> None:
    name, network = place(tmp_path, kind)
    conditioner = ClapTextConditioner(output_dim=tiny.JOINT, clap_ckpt_path=name, max_length=20).eval()
    found, mask = conditioner(tiny.TEXTS, "cpu")
    with torch.no_grad():
        expected = embedding(network.get_text_features(**tokens(network, tmp_path, tiny.TEXTS, 20)))
    torch.testing.assert_close(found[:, 0], expected)
    assert mask.shape == (len(tiny.TEXTS), 1)
    assert mask.all()
    assert conditioner.layout == "vector"
    assert not conditioner.state_dict()


@pytest.mark.parametrize("kind", ["folder", "laion"])
@pytest.mark.parametrize("layer", [-1, -2, 0])
def test_hidden_layers_of_text(tmp_path: Path, kind: str, layer: int) -> None:
    name, network = place(tmp_path, kind)
    options = {"use_text_features": True, "feature_layer_ix": layer, "max_length": 20}
    conditioner = ClapTextConditioner(output_dim=tiny.WIDTH, clap_ckpt_path=name, **options).eval()
    found, mask = conditioner(tiny.TEXTS, "cpu")
    batch = tokens(network, tmp_path, tiny.TEXTS, 20)
    with torch.no_grad():
        expected = network.text_model(**batch, output_hidden_states=True).hidden_states[layer]
    torch.testing.assert_close(found, expected)
    assert torch.equal(mask, batch["attention_mask"].bool())
    assert conditioner.layout == "tokens"


@pytest.mark.parametrize("kind", ["folder", "laion"])
@pytest.mark.parametrize("fusion", [True, False])
def test_audio_embeddings_are_those_of_the_whole_model(tmp_path: Path, kind: str, fusion: bool) -> None:
    from transformers import ClapFeatureExtractor

    name, network = place(tmp_path, kind, fusion)
    conditioner = ClapAudioConditioner(output_dim=tiny.JOINT, clap_ckpt_path=name, enable_fusion=fusion)
    sounds = [torch.rand(2, 3 * RATE) - 0.5, 0.1 * torch.randn(1, RATE // 2)]
    found, mask = conditioner.eval()(sounds, "cpu")
    inputs = ClapFeatureExtractor.from_pretrained(tmp_path)(
        [s.mean(dim=0).numpy() for s in sounds], sampling_rate=RATE, return_tensors="pt"
    )
    spectrograms, longer = conditioner.extractor([s.mean(dim=0) for s in sounds], "cpu")
    # In dB; both are sums in float32 or better of the same terms, of which none is near the floor.
    torch.testing.assert_close(spectrograms, inputs["input_features"].float(), atol=1e-3, rtol=0)
    assert longer.tolist() == [[False], [False]]
    with torch.no_grad():
        expected = embedding(network.get_audio_features(spectrograms, is_longer=longer))
    torch.testing.assert_close(found[:, 0], expected)
    assert mask.shape == (2, 1)
    assert conditioner.layout == "vector"


@pytest.mark.parametrize("fusion", [True, False])
def test_parts_of_long_sounds_are_fixed_and_those_of_the_extractor(fusion: bool) -> None:
    from transformers import ClapFeatureExtractor

    extractor = ClapFeatureExtractor(max_length_s=1, truncation="fusion" if fusion else "rand_trunc")
    features = ClapFeatures.of(extractor, fusion=fusion)
    sound = torch.randn(RATE * 5 // 2)
    found, longer = features([sound], "cpu")
    assert torch.equal(found, features([sound], "cpu")[0])
    assert longer.tolist() == [[fusion]]
    if not fusion:
        part = sound[RATE * 3 // 4 : RATE * 7 // 4]
        torch.testing.assert_close(found[0], features([part], "cpu")[0][0])
        return
    mel = extractor._np_extract_fbank_features(sound.numpy().astype("float64"), extractor.mel_filters)
    whole = torch.from_numpy(mel).float()
    shrunk = F.interpolate(whole[None, None], size=(101, 64), mode="bilinear", align_corners=False)
    # 251 frames and chunks of 101 leave the starts 0 to 150: in thirds, 0..50, 51..100 and 101..150.
    expected = torch.stack([shrunk[0, 0], whole[25:126], whole[76:177], whole[126:227]])
    torch.testing.assert_close(found[0], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("layer", "width"), [(0, 8), (1, 16), (-1, 16)])
def test_hidden_layers_of_sounds(tmp_path: Path, layer: int, width: int) -> None:
    name, network = place(tmp_path, "laion")
    options = {"use_audio_features": True, "feature_layer_ix": layer}
    conditioner = ClapAudioConditioner(output_dim=width, clap_ckpt_path=name, **options).eval()
    sound = torch.rand(1, RATE) - 0.5
    found, mask = conditioner([sound], "cpu")
    features, longer = conditioner.extractor([sound[0]], "cpu")
    with torch.no_grad():
        output = network.audio_model(features, is_longer=longer, output_hidden_states=True)
    image = output.hidden_states[layer]
    torch.testing.assert_close(found, image.flatten(2).transpose(1, 2))
    assert mask.shape == found.shape[:2]
    assert conditioner.layout == "tokens"


def test_every_form_of_a_sound_is_the_same_sound(tmp_path: Path) -> None:
    name, _ = place(tmp_path, "folder")
    conditioner = ClapAudioConditioner(output_dim=6, clap_ckpt_path=name, sample_rate=24_000).eval()
    audio = torch.rand(2, 24_000) - 0.5
    save_audio(tmp_path / "a.wav", audio, 24_000, subtype="FLOAT")
    alone, _ = conditioner([audio], "cpu")
    for value in ((24_000, audio), str(tmp_path / "a.wav"), conditioner.fitted(audio, 7)):
        torch.testing.assert_close(conditioner([value], "cpu")[0], alone)


@pytest.mark.parametrize("factory", [ClapTextConditioner, ClapAudioConditioner])
def test_a_branch_is_trained_and_stored_only_if_it_is_finetuned(tmp_path: Path, factory: Any) -> None:
    name, _ = place(tmp_path, "laion")
    frozen = factory(output_dim=3, clap_ckpt_path=name)
    assert set(frozen.state_dict()) == {"proj_out.weight", "proj_out.bias"}
    value = "rock" if factory is ClapTextConditioner else torch.rand(1, RATE)
    frozen([value], "cpu")
    assert not any(p.requires_grad for p in frozen.encoder("cpu").parameters())
    trained = factory(output_dim=3, clap_ckpt_path=name, finetune=True)
    count = sum(p.numel() for p in frozen.encoder("cpu").parameters())
    assert frozen.network.count() == count
    assert sum(p.numel() for p in trained.model.parameters()) == count
    assert not trained.frozen_networks()
    trained([value], "cpu")[0].square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in trained.model.parameters())


def shapes_of(network: Any) -> list[Tensor]:
    with torch.device("meta"):
        return list(network._load().parameters())


def test_published_sizes_need_no_file() -> None:
    text = ClapTextConditioner(output_dim=768, clap_ckpt_path="/nowhere/630k-audioset-fusion-best.pt")
    assert (text.dim, text.network.count()) == (512, 125_302_016)
    assert (
        ClapTextConditioner(output_dim=1, clap_ckpt_path="/nowhere/a.pt", use_text_features=True).dim == 768
    )
    assert sum(p.numel() for p in shapes_of(text.network)) == 125_302_016
    audio = ClapAudioConditioner(output_dim=512, clap_ckpt_path="laion/clap-htsat-fused")
    assert audio.dim == 512
    assert audio.network.count() == sum(p.numel() for p in shapes_of(audio.network))
    with pytest.raises(
        FileNotFoundError, match=r"/nowhere/630k-audioset-fusion-best\.pt does not exist; give"
    ):
        text(["rock"], "cpu")


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda f: f.write_text("version https://git-lfs"), "Git LFS pointer"),
        (
            lambda f: torch.save({"state_dict": {"layer.weight": torch.zeros(2)}}, f),
            "no checkpoint of LAION-CLAP",
        ),
        (lambda f: f.write_bytes(b"PK\x03\x04 damaged"), "truncated, damaged"),
        (
            lambda f: torch.save({"text_branch.embeddings.word_embeddings.weight": torch.zeros(4, 64)}, f),
            "text_branch is of a kind that is not served",
        ),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, write: Any, match: str) -> None:
    write(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=match) as caught:
        ClapTextConditioner(output_dim=4, clap_ckpt_path=str(tmp_path / "a.pt"))
    assert str(tmp_path / "a.pt") in str(caught.value)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 4}')
    with pytest.raises(ValueError, match="holds a model of the kind 'bert', not clap"):
        ClapTextConditioner(output_dim=4, clap_ckpt_path=str(tmp_path))


def test_what_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    name, _ = place(tmp_path, "laion", fusion=False)
    with pytest.raises(ValueError, match=r"enable_fusion is true, but '.*' was trained without fusion"):
        ClapAudioConditioner(output_dim=4, clap_ckpt_path=name)
    with pytest.raises(ValueError, match=r"feature_layer_ix is 3, but the encoder has the hidden states 0"):
        ClapTextConditioner(output_dim=4, clap_ckpt_path=name, use_text_features=True, feature_layer_ix=3)


def test_spectrograms_do_not_wait_for_the_device() -> None:
    extractor = ClapFeatures(
        filters=torch.rand(5, 3), sample_rate=RATE, samples=64, window=8, hop=4, fusion=True
    )
    with no_waits():
        spectrograms, longer = extractor([torch.randn(40), torch.randn(200)], DEVICE)
    assert spectrograms.shape == (2, 4, 17, 3)
    assert spectrograms.device == longer.device == DEVICE
