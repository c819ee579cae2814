"""text_encoder around tiny models of every kind, built from their config, saved and loaded as real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.conditioning.pretrained.known_mask import known_mask
from stable_audio.conditioning.t5 import T5Conditioner
from stable_audio.conditioning.text_encoder import TextEncoderConditioner
from tests.checkpoints.tiny_pipeline import disturb
from tests.conditioning import tiny_encoders as tiny
from tests.golden.kinds.cond_text import save_tokenizer
from tests.host_waits import DEVICE, no_waits

pytest.importorskip("transformers")

V, D, LENGTH = len(tiny.VOCABULARY), 16, 9
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {"vocab_size": V, "hidden_size": D, "intermediate_size": 24, "max_position_embeddings": 40, **HEADS}
T5 = {"vocab_size": V, "d_model": D, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
CLIP_TEXT = {**BERT, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
VISION = {**HEADS, "hidden_size": 8, "intermediate_size": 8, "image_size": 8, "patch_size": 4}
BART = {
    "vocab_size": V,
    "d_model": D,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 2,
    **{f"{half}_layers": 2 for half in ("encoder", "decoder")},
    **{f"{half}_attention_heads": 2 for half in ("encoder", "decoder")},
    **{f"{half}_ffn_dim": 24 for half in ("encoder", "decoder")},
}

WORDS = "words"
"""Folder of a tokenizer beside its model."""

Half = Callable[[Any], Any]

KINDS: dict[str, tuple[str, str, dict[str, Any], Half]] = {
    # name: (config, model, settings, the part that reads text)
    "bert": ("BertConfig", "BertModel", BERT, lambda m: m),
    "roberta": ("RobertaConfig", "RobertaModel", BERT, lambda m: m),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertModel",
        {"vocab_size": V, "dim": D, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
        lambda m: m,
    ),
    "t5": ("T5Config", "T5EncoderModel", T5, lambda m: m),
    "t5 with decoder": ("T5Config", "T5ForConditionalGeneration", T5, lambda m: m.encoder),
    "umt5": ("UMT5Config", "UMT5EncoderModel", T5, lambda m: m),
    "bart": ("BartConfig", "BartModel", BART, lambda m: m.encoder),
    "clip": (
        "CLIPConfig",
        "CLIPModel",
        {"text_config": CLIP_TEXT, "vision_config": VISION, "projection_dim": 6},
        lambda m: m.text_model,
    ),
    "clip text": ("CLIPTextConfig", "CLIPTextModel", CLIP_TEXT, lambda m: m),
    "language model": (
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {**BERT, "num_key_value_heads": 1},
        lambda m: m.model,
    ),
}


def save(folder: Path, kind: str) -> Any:
    """Save a random model of a kind with a tokenizer; returns the part that reads text."""
    import transformers

    config, model, settings, half = KINDS[kind]
    torch.manual_seed(3)
    network: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings))
    disturb(network)
    network.eval().save_pretrained(folder)
    # For some kinds transformers takes their own tokenizer, whatever the folder of the model says.
    place = folder / WORDS if kind == "language model" else folder
    save_tokenizer(tiny.VOCABULARY, "<s> $A </s>", place)
    return half(network)


def reader(folder: Path, **options: Any) -> TextEncoderConditioner:
    settings = {"output_dim": D, "max_length": LENGTH, **options}
    if (folder / WORDS).exists():
        settings["tokenizer"] = str(folder / WORDS)
    return TextEncoderConditioner(model_name=str(folder), **settings).eval()


def literal(network: Any, reader: TextEncoderConditioner, texts: list[str]) -> tuple[Any, Tensor]:
    """What the network itself says of texts, and their mask."""
    ids, mask = reader.tokens(texts)
    with torch.no_grad():
        return network(input_ids=ids, attention_mask=mask, output_hidden_states=True), mask


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_network(tmp_path: Path, kind: str) -> None:
    network = save(tmp_path, kind)
    conditioner = reader(tmp_path)
    found, mask = conditioner(tiny.TEXTS, "cpu")
    output, valid = literal(network, conditioner, tiny.TEXTS)
    torch.testing.assert_close(found, output.last_hidden_state * valid.unsqueeze(-1))
    assert torch.equal(mask, valid)
    assert mask.sum(dim=1).tolist() == [5, 4, 2, 4]
    assert not conditioner.state_dict()
    assert conditioner.network.count() == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "t5", "umt5", "bart"])
def test_reading_does_not_wait_for_the_device(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks a mask whether it hides anything, which the host knows."""
    save(tmp_path, kind)
    conditioner = reader(tmp_path, max_length=5)
    monkeypatch.setattr(conditioner, "encoding", lambda device: torch.no_grad())  # no autocast on "meta"
    conditioner.encoder(DEVICE)
    for texts in (tiny.TEXTS, ["rock drum loop"]):  # with padding, and without any
        with no_waits():
            features, mask = conditioner.features(texts, DEVICE)
        assert features.device == mask.device == DEVICE


def test_a_known_mask_answers_for_itself_alone() -> None:
    host = torch.tensor([[True, False], [True, True]])
    mask, other = host.to(DEVICE), torch.ones(2, 2, dtype=torch.bool, device=DEVICE)
    with known_mask(mask, host):
        assert (bool(mask.all()), int(mask.sum())) == (False, 3)
        for asked in (other.all(), mask.all(1), mask.sum(dim=0), (~mask).sum()):
            assert asked.device == DEVICE
    assert mask.all().device == DEVICE
    with known_mask(host, host), known_mask(mask, mask):
        assert mask.all().device == DEVICE


@pytest.mark.parametrize("kind", ["bert", "t5", "bart", "clip", "language model"])
@pytest.mark.parametrize("layer", [0, 1, -1, -2])
def test_any_layer_can_be_read(tmp_path: Path, kind: str, layer: int) -> None:
    network = save(tmp_path, kind)
    conditioner = reader(tmp_path, layer=layer, padding_mode="none")
    output, _ = literal(network, conditioner, tiny.TEXTS)
    torch.testing.assert_close(conditioner(tiny.TEXTS, "cpu")[0], output.hidden_states[layer])


@pytest.mark.parametrize("side", ["right", "left"])
def test_poolings_are_of_the_tokens_that_are_no_padding(tmp_path: Path, side: str) -> None:
    network = save(tmp_path, "bert")
    for pooling in ("mean", "first", "last", "pooler"):
        conditioner = reader(tmp_path, pooling=pooling)
        conditioner.tokenizer.padding_side = side
        found, mask = conditioner(tiny.TEXTS, "cpu")
        output, valid = literal(network, conditioner, tiny.TEXTS)
        hidden = output.last_hidden_state
        rows = [h[m] for h, m in zip(hidden, valid)]
        expected = {
            "mean": torch.stack([r.mean(dim=0) for r in rows]),
            "first": torch.stack([r[0] for r in rows]),
            "last": torch.stack([r[-1] for r in rows]),
            "pooler": output.pooler_output,
        }[pooling]
        torch.testing.assert_close(found[:, 0], expected)
        assert found.shape == (len(tiny.TEXTS), 1, D)
        assert mask.tolist() == [[True]] * len(tiny.TEXTS)
        assert conditioner.layout == "vector"


def test_a_prefix_precedes_every_prompt(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    torch.testing.assert_close(
        reader(tmp_path, prefix="soft ")(["rock drum", ""], "cpu")[0],
        reader(tmp_path)(["soft rock drum", "soft"], "cpu")[0],
    )


def test_padding_modes(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    bare, mask = reader(tmp_path, padding_mode="none")(["rock"], "cpu")
    assert not mask.all()
    assert bare[~mask].abs().min() > 0
    zero, _ = reader(tmp_path)(["rock"], "cpu")
    assert torch.equal(zero, bare * mask.unsqueeze(-1))
    learned = reader(tmp_path, padding_mode="learned")
    assert set(learned.state_dict()) == {"padding_embedding"}
    found, _ = learned(["rock"], "cpu")
    assert torch.equal(found[mask], bare[mask])
    assert torch.equal(found[~mask], learned.state_dict()["padding_embedding"].expand(int((~mask).sum()), -1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_precision_is_that_of_the_config(tmp_path: Path, dtype: Any) -> None:
    save(tmp_path, "bert")
    conditioner = reader(tmp_path, encoder_dtype=dtype, project_out=True)
    assert {p.dtype for p in conditioner.encoder("cpu").parameters()} == {getattr(torch, dtype)}
    assert conditioner(["rock"], "cpu")[0].dtype == torch.float32


@pytest.mark.parametrize("pooling", ["none", "mean", "first", "last"])
def test_a_prompt_without_any_token_is_zero_and_spoils_nothing(tmp_path: Path, pooling: str) -> None:
    """Tokenizers of language models add nothing to a text, so that an empty one has no token at all, and
    attention over none gives NaN in some networks."""
    save(tmp_path, "language model")
    save_tokenizer(tiny.VOCABULARY, "$A", tmp_path / WORDS)
    conditioner = reader(tmp_path, pooling=pooling, project_out=True)
    assert isinstance(conditioner.proj_out, nn.Linear)
    nn.init.zeros_(conditioner.proj_out.bias)

    class Undefined(nn.Module):
        def forward(self, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
            hidden = torch.ones(*attention_mask.shape, D).masked_fill(
                ~attention_mask.any(dim=1)[:, None, None], torch.nan
            )
            return SimpleNamespace(last_hidden_state=hidden)

    conditioner.network.module = Undefined()
    found, mask = conditioner(["rock drum", ""], "cpu")
    if pooling == "none":
        assert mask.sum(dim=1).tolist() == [2, 0]
    assert found[0].abs().max() > 0
    assert found[1].abs().max() == 0
    found.sum().backward()
    assert conditioner.proj_out.weight.grad is not None
    assert conditioner.proj_out.weight.grad.isfinite().all()


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path) -> None:
    save(tmp_path, "language model")
    save_tokenizer(tiny.VOCABULARY, "$A </s>", tmp_path / WORDS, pad=None)
    ids, mask = reader(tmp_path).tokens(["rock"])
    assert ids[0].tolist() == [4, *[2] * (LENGTH - 1)]
    assert mask[0].tolist() == [True, True, *[False] * (LENGTH - 2)]


def test_a_trained_encoder_is_stored_and_gets_gradients(tmp_path: Path) -> None:
    network = save(tmp_path, "t5")
    conditioner = reader(tmp_path, enable_grad=True)
    names = {f"model.{k}" for k in network.state_dict()}
    assert set(conditioner.state_dict()) == names
    conditioner(["rock drum"], "cpu")[0].square().sum().backward()
    assert all(p.grad is not None for p in conditioner.model.parameters())


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    """Otherwise what a run draws would depend on when it loads its encoder; the pooler is missing here."""
    from transformers import BertConfig, BertForMaskedLM

    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(tmp_path)
    save_tokenizer(tiny.VOCABULARY, "<s> $A </s>", tmp_path)
    conditioner = reader(tmp_path)
    state = torch.random.get_rng_state()
    conditioner(["rock"], "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(OSError, match=r"weights of .* are missing there, such as 'pooler.dense.bias'"):
        reader(tmp_path, pooling="pooler")(["rock"], "cpu")


def test_equal_encoders_are_loaded_once(tmp_path: Path) -> None:
    save(tmp_path / "a", "t5")
    first, second = reader(tmp_path / "a", encoder_dtype="float16"), reader(tmp_path / "a", layer=1)
    third = T5Conditioner(output_dim=D, t5_model_name=str(tmp_path / "a"), max_length=LENGTH)
    other = reader(tmp_path / "a", encoder_dtype="float16", prefix="x", pooling="mean")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    linked = reader(tmp_path / "b", encoder_dtype="float16")
    network = first.encoder("cpu")
    assert other.encoder("cpu") is network
    assert third.encoder("cpu") is network
    assert linked.encoder("cpu") is network
    assert second.encoder("cpu") is not network  # float32
    third.to("meta")
    assert first.encoder("cpu") is network
    assert next(network.parameters()).device.type == "cpu"
    assert next(third.encoder("cpu").parameters()).device.type == "meta"


def test_what_is_not_known_or_contradicts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"'owner/name' has no config.json at hand .* or give 'dim'"):
        TextEncoderConditioner(output_dim=4, model_name="owner/name")
    unknown = TextEncoderConditioner(output_dim=4, model_name="owner/name", dim=8)
    with pytest.raises(OSError, match="model_name 'owner/name' cannot be loaded: it was not"):
        unknown(["rock"], "cpu")
    save(tmp_path, "bert")
    with pytest.raises(ValueError, match=r"dim is 8, but '.*' has 16 features"):
        reader(tmp_path, dim=8)
    with pytest.raises(ValueError, match="layer is 3, but the encoder has the hidden states 0"):
        reader(tmp_path, layer=3)
    save(tmp_path / "t5", "t5")
    with pytest.raises(ValueError, match=r"pooling is pooler, but '.*' has none; take mean"):
        reader(tmp_path / "t5", pooling="pooler")(["rock"], "cpu")
