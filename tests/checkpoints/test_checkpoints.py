"""Reading every layout, strict loading with a report, atomic writing, export, foreign and damaged files."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stable_audio.checkpoints import (
    CheckpointError,
    export,
    load_pretrained,
    load_pretransform,
    load_weights,
    read_checkpoint,
    resolve,
    save_inference_file,
)
from stable_audio.checkpoints.keys import sat_backbone_prefix, to_ours, to_sat

CONFIG = {"model_type": "diffusion_cond", "model": {"diffusion": {"type": "dit"}}}


class _Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 3)
        self.decoder = nn.Linear(3, 2)


class _Pretransform(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = _Autoencoder()


class _Model(nn.Module):
    """A model with the names of a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4)
        self.conditioner = nn.ModuleDict({"conditioners": nn.ModuleDict({"prompt": nn.Linear(2, 2)})})
        self.pretransform = _Pretransform()


def _sat(model: nn.Module) -> dict[str, Tensor]:
    return to_sat(model.state_dict(), CONFIG)


def _ema_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("model."): v + 1 for k, v in state.items() if k.startswith("model.")}


def _wrapped(model: nn.Module) -> dict[str, Any]:
    state = _sat(model)
    wrapped = {f"diffusion.{k}": v for k, v in state.items()}
    wrapped |= {f"diffusion_ema.ema_model.{k}": v for k, v in _ema_of(state).items()}
    wrapped |= {"diffusion_ema.initted": torch.ones(1), "losses.losses.0.weight": torch.ones(())}
    return {"state_dict": wrapped, "model_config": CONFIG, "optimizer_states": []}


def _same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_names_of_the_backbone() -> None:
    known = {"backbone.net.0.weight", "conditioner.conditioners.prompt.weight"}
    one = torch.zeros(1)
    assert to_ours({"model.net.0.weight": one}, known).keys() == {"backbone.net.0.weight"}
    assert to_ours({"model.model.net.0.weight": one}, known).keys() == {"backbone.net.0.weight"}
    # A backbone whose own names start with "model." is read by what it knows.
    assert to_ours({"model.model.x": one}, {"backbone.model.x"}).keys() == {"backbone.model.x"}
    uncond = {"model_type": "diffusion_uncond", "model": {"type": "DAU1d"}}
    assert sat_backbone_prefix(uncond) == "model."
    assert sat_backbone_prefix({"model_type": "diffusion_uncond", "model": {"type": "dit"}}) == "model.model."
    assert to_sat({"backbone.net": one}, uncond).keys() == {"model.net"}


@pytest.mark.parametrize("layout", ["ours", "sat"])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_export_and_back(tmp_path: Path, layout: Any, suffix: str) -> None:
    model, other = _Model(), _Model()
    file = export(model, tmp_path / f"m{suffix}", config=CONFIG, layout=layout)
    report = load_pretrained(other, file)
    assert report.complete
    assert _same(model, other)
    assert read_checkpoint(file).config == CONFIG


def test_export_in_the_other_layout_has_its_names(tmp_path: Path) -> None:
    file = export(_Model(), tmp_path / "m.ckpt", config=CONFIG, layout="sat")
    keys = torch.load(file, weights_only=True)["state_dict"].keys()
    assert {"model.model.weight", "conditioner.conditioners.prompt.bias"} < keys
    assert "pretransform.model.encoder.weight" in keys


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_export_to_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    model = nn.Linear(100, 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"model{suffix} was not written"):
            export(model, tmp_path / f"model{suffix}", config=CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_export_can_halve(tmp_path: Path) -> None:
    file = export(_Model(), tmp_path / "m.safetensors", config=CONFIG, dtype=torch.float16)
    assert {v.dtype for v in read_checkpoint(file).tensors.values()} == {torch.float16}


@pytest.mark.parametrize(("name", "layout"), [("m.bin", "ours"), ("m.ckpt", "theirs")])
def test_export_refuses_unknown_formats(tmp_path: Path, name: str, layout: Any) -> None:
    with pytest.raises(CheckpointError, match=r"safetensors|'ours' or 'sat'"):
        export(_Model(), tmp_path / name, config=CONFIG, layout=layout)


def test_shared_tensors_are_stored_whole(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    file = save_inference_file(tmp_path / "m.safetensors", {"a": base, "b": base, "c": base[2:4]}, CONFIG)
    stored = read_checkpoint(file).tensors
    assert torch.equal(stored["a"], base)
    assert torch.equal(stored["b"], base)
    assert stored["c"].tolist() == [2, 3]


@pytest.mark.parametrize("use_ema", [True, False])
def test_wrapped_checkpoint_of_the_reference(tmp_path: Path, use_ema: bool) -> None:
    model, other = _Model(), _Model()
    torch.save(_wrapped(model), tmp_path / "w.ckpt")
    report = load_pretrained(other, tmp_path / "w.ckpt", use_ema=use_ema)
    assert report.complete
    assert report.weights == ("ema" if use_ema else "online")
    expected = model.backbone.weight + 1 if use_ema else model.backbone.weight
    assert torch.equal(other.backbone.weight, expected)
    assert torch.equal(other.pretransform.model.encoder.weight, model.pretransform.model.encoder.weight)


def test_autoencoder_alone_goes_into_the_pretransform(tmp_path: Path) -> None:
    source, model = _Autoencoder(), _Model()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "ae.ckpt")
    before = model.backbone.weight.clone()
    report = load_pretrained(model, tmp_path / "ae.ckpt")
    assert report.complete
    assert "autoencoder" in str(report)
    assert report.loaded_below("pretransform.") == 4
    assert torch.equal(model.pretransform.model.encoder.weight, source.encoder.weight)
    assert torch.equal(model.backbone.weight, before)


@pytest.mark.parametrize("form", ["alone", "wrapped", "whole model", "ours"])
def test_pretransform_from_any_file(tmp_path: Path, form: str) -> None:
    source = _Model()
    inner = source.pretransform.model.state_dict()
    contents = {
        "alone": inner,
        "wrapped": {f"autoencoder.{k}": v for k, v in inner.items()} | {"discriminator.w": torch.ones(1)},
        "whole model": _sat(source),
        "ours": source.state_dict(),
    }
    torch.save({"state_dict": contents[form]}, tmp_path / "x.ckpt")
    target = _Model()
    assert load_pretransform(target, tmp_path / "x.ckpt").complete
    assert torch.equal(target.pretransform.model.decoder.weight, source.pretransform.model.decoder.weight)


def test_pretransform_without_weights_is_an_error(tmp_path: Path) -> None:
    torch.save({"state_dict": _Autoencoder().state_dict()}, tmp_path / "ae.ckpt")
    with pytest.raises(CheckpointError, match="no pretransform"):
        load_pretransform(nn.Linear(1, 1), tmp_path / "ae.ckpt")


def test_strict_loading_names_what_differs() -> None:
    tensors = {"weight": torch.zeros(3, 3), "extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as error:
        load_weights(nn.Linear(2, 2), tensors, source="f.ckpt")
    text = str(error.value)
    assert "f.ckpt" in text
    assert "bias" in text
    assert "weight (3, 3) in the file, (2, 2) in the model" in text
    assert "extra" in text


def test_partial_loading_reports_the_rest() -> None:
    module = nn.Linear(2, 2)
    report = load_weights(module, {"weight": torch.ones(2, 2), "extra": torch.ones(1)}, partial=True)
    assert (report.loaded, report.missing, report.unused) == (["weight"], ["bias"], ["extra"])
    assert module.weight.eq(1).all()


def test_partial_loading_of_nothing_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="Nothing fits"):
        load_weights(nn.Linear(2, 2), {"x": torch.ones(1)}, partial=True)


def test_damaged_and_foreign_files_get_one_sentence(tmp_path: Path) -> None:
    good_torch, good_safe = tmp_path / "g.ckpt", tmp_path / "g.safetensors"
    torch.save({"state_dict": _Model().state_dict()}, good_torch)
    save_file(_Model().state_dict(), str(good_safe))
    files = {
        "cut.ckpt": good_torch.read_bytes()[:700],
        "cut.safetensors": good_safe.read_bytes()[:-20],
        "text.ckpt": b"hello, this is no checkpoint",
        "text.safetensors": b"hello, this is no checkpoint",
        "empty.ckpt": b"",
        "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "page.ckpt": b"<!DOCTYPE html><html>404</html>",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value), "torch's own advice is no part of ours"
        assert "pytorch" not in str(error.value).lower()


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"state_dict": {"a": Evil()}}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="objects that only code inside it can restore"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], {"state_dict": {}}])
def test_files_without_weights(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "n.ckpt")
    with pytest.raises(CheckpointError, match=r"n\.ckpt"):
        read_checkpoint(tmp_path / "n.ckpt")


def test_newer_formats_are_refused(tmp_path: Path) -> None:
    save_file(
        {"a": torch.ones(1)},
        str(tmp_path / "n.safetensors"),
        {"format": "stable-audio", "format_version": "99"},
    )
    with pytest.raises(CheckpointError, match="newer"):
        read_checkpoint(tmp_path / "n.safetensors")


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        resolve(tmp_path / "absent.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        resolve(tmp_path)
    model = _Model()
    export(model, tmp_path / "model.safetensors", config=CONFIG, layout="sat")
    assert resolve(tmp_path).name == "model.safetensors"
    run = tmp_path / "run"
    export(model, run / "checkpoints" / "last.safetensors", config=CONFIG)
    assert resolve(run).name == "last.safetensors"


def test_config_beside_the_file(tmp_path: Path) -> None:
    save_file(_sat(_Model()), str(tmp_path / "model.safetensors"))
    (tmp_path / "model_config.json").write_text(json.dumps(CONFIG))
    assert read_checkpoint(tmp_path).config == CONFIG


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = export(_Model(), tmp_path / "m.ckpt", config=CONFIG)
    content = old.read_bytes()

    def full(_: Any, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        export(_Model(), tmp_path / "m.ckpt", config=CONFIG)
    assert old.read_bytes() == content
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("use_ema", [True, False])
def test_wrapped_weights_in_safetensors(tmp_path: Path, use_ema: bool) -> None:
    model, other = _Model(), _Model()
    save_file(_wrapped(model)["state_dict"], str(tmp_path / "w.safetensors"))
    report = load_pretrained(other, tmp_path / "w.safetensors", use_ema=use_ema)
    assert report.complete
    expected = model.backbone.weight + 1 if use_ema else model.backbone.weight
    assert torch.equal(other.backbone.weight, expected)


@pytest.mark.parametrize("prefix", ["pretransform.model.", "model.", "", "module.", "_orig_mod."])
@pytest.mark.parametrize("load", [load_pretrained, load_pretransform])
def test_a_pretransform_alone_under_any_flag(tmp_path: Path, prefix: str, load: Any) -> None:
    source, model = _Autoencoder(), _Model()
    before = model.backbone.weight.clone()
    save_file({prefix + k: v for k, v in source.state_dict().items()}, str(tmp_path / "p.safetensors"))
    report = load(model, tmp_path / "p.safetensors")
    assert report.complete
    assert report.loaded_below("pretransform.") == len(report.loaded) == 4
    assert torch.equal(model.pretransform.model.decoder.weight, source.decoder.weight)
    assert torch.equal(model.backbone.weight, before)


def test_a_model_without_a_pretransform_is_no_source_of_one(tmp_path: Path) -> None:
    state = {k: v for k, v in _sat(_Model()).items() if not k.startswith("pretransform.")}
    save_file(state, str(tmp_path / "m.safetensors"))
    with pytest.raises(CheckpointError, match="a diffusion model without a pretransform"):
        load_pretransform(_Model(), tmp_path / "m.safetensors", partial=True)
    with pytest.raises(CheckpointError, match="4 missing from the file: pretransform"):
        load_pretrained(_Model(), tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.x.lora_A.weight",
        "lora_unet_down.lora_up.weight",
        "model.x.parametrizations.w.0.dora_magnitude",
    ],
)
def test_adapters_are_no_models(tmp_path: Path, key: str) -> None:
    save_file({key: torch.ones(2)}, str(tmp_path / "a.safetensors"))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: holds a LoRA adapter"):
        read_checkpoint(tmp_path / "a.safetensors")
    save_file({"conditioner.conditioners.flora_x.weight": torch.ones(2)}, str(tmp_path / "b.safetensors"))
    read_checkpoint(tmp_path / "b.safetensors")


def test_a_damaged_adapter_in_place_of_a_model_is_named_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    layer = "model.to_qkv.parametrizations.weight.0."
    tensors = {layer + "lora_A": torch.full((2, 4), torch.nan), layer + "lora_B": torch.zeros(4, 2)}
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: .*lora_A holds values that are not finite"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["e.ckpt", "e.safetensors"])
def test_an_error_page_in_plain_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Access to this model is restricted. Log in to get it, then try again.")
    with pytest.raises(CheckpointError, match=r"a text file .'Access to this model"):
        read_checkpoint(tmp_path / name)


def test_another_architecture_is_said_in_a_sentence(tmp_path: Path) -> None:
    save_file({f"transformer.h.{i}.w": torch.ones(1) for i in range(300)}, str(tmp_path / "o.safetensors"))
    for partial in (False, True):
        with pytest.raises(CheckpointError, match="none of its 300 tensors belongs to this model") as error:
            load_pretrained(_Model(), tmp_path / "o.safetensors", partial=partial)
        assert len(str(error.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("content", [b"t", b"q", b"0\x00", b"(t\x81."])
def test_bytes_that_are_no_pickle_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"\x80\x02" + content)
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        read_checkpoint(path)
