"""Contract of every conditioner, then what each promises."""

from __future__ import annotations

import logging
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stable_audio.conditioning import CONDITIONERS, Conditioner, MultiConditioner, SlotWiring
from stable_audio.conditioning.clip_text import ClipTextConditioner
from stable_audio.conditioning.scalars import IntConditioner, ListConditioner, NumberConditioner
from stable_audio.conditioning.t5 import T5_SIZES, T5Conditioner, t5_size
from stable_audio.conditioning.tokenizers import ByteTokenizer
from stable_audio.conditioning.values import SoundValue, SourcesValue
from stable_audio.conditioning.vector import VectorConditioner
from stable_audio.types import Conditioning, Slot
from tests import tiny

WIDTH = 6


def build(name: str, **changes: Any) -> Conditioner:
    torch.manual_seed(0)
    return CONDITIONERS[name](output_dim=WIDTH, **{**tiny.CONDITIONERS[name], **changes})


@pytest.fixture(params=sorted(tiny.CONDITIONERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_conditioner_is_covered() -> None:
    """t5 needs weights on disk and has its own tests below, the others have theirs in files of their own."""
    others = {
        "t5",
        "t5gemma",
        "clap_text",
        "clap_audio",
        "text_encoder",
        "lut",
        "phoneme",
        "pretransform",
        "source_mix",
    }
    assert set(CONDITIONERS) - set(tiny.CONDITIONERS) == others


def test_shape_and_mask(name: str) -> None:
    values = tiny.CONDITIONER_VALUES[name]
    tensor, mask = build(name)(values, "cpu")
    assert tensor.ndim == 3
    assert tensor.shape[0] == len(values)
    assert tensor.shape[2] == WIDTH
    assert mask is not None
    assert mask.dtype == torch.bool
    assert mask.shape == tensor.shape[:2]
    assert tensor[~mask].abs().sum() == 0
    assert build(name).layout == ("vector" if tensor.shape[1] == 1 else "tokens")


def test_items_do_not_depend_on_their_batch(name: str) -> None:
    conditioner, values = build(name).eval(), tiny.CONDITIONER_VALUES[name]
    together, _ = conditioner(values, "cpu")
    apart = torch.cat([conditioner([v], "cpu")[0] for v in values])
    torch.testing.assert_close(together, apart)


def test_values_differ_and_train(name: str) -> None:
    conditioner = build(name)
    tensor, _ = conditioner(tiny.CONDITIONER_VALUES[name], "cpu")
    assert not torch.allclose(tensor[0], tensor[1])
    tensor.square().sum().backward()
    assert all(p.grad is not None for p in conditioner.parameters())


def test_state_round_trip(name: str) -> None:
    first, second = build(name), CONDITIONERS[name](output_dim=WIDTH, **tiny.CONDITIONERS[name])
    second.load_state_dict(first.state_dict())
    values = tiny.CONDITIONER_VALUES[name]
    torch.testing.assert_close(first(values, "cpu")[0], second(values, "cpu")[0])


@given(st.integers(-100, 100), st.integers(3, 9), st.integers(0, 6))
def test_int_row(value: int, low: int, span: int) -> None:
    conditioner = IntConditioner(output_dim=1, min_val=low, max_val=low + span)
    conditioner.int_embedder.weight.data = torch.arange(span + 1.0).unsqueeze(1)
    tensor, _ = conditioner([value], "cpu")
    assert tensor.item() == min(max(value, low), low + span) - low


def test_int_legacy_index_looks_up_the_value_itself() -> None:
    conditioner = IntConditioner(output_dim=1, min_val=3, max_val=9, legacy_index=True)
    conditioner.int_embedder.weight.data = torch.arange(7.0).unsqueeze(1)
    assert conditioner([0, 5, 9], "cpu")[0].flatten().tolist() == [3, 5, 6]


def test_number_closed_form() -> None:
    conditioner = NumberConditioner(output_dim=WIDTH, min_val=10, max_val=30)
    embedding, linear = conditioner.embedder.embedding
    x = torch.tensor([[0.25]])
    angle = 2 * torch.pi * x * embedding.weights
    expected = linear(torch.cat([x, angle.sin(), angle.cos()], dim=-1))
    torch.testing.assert_close(conditioner([15], "cpu")[0][:, 0], expected)
    torch.testing.assert_close(conditioner([-5], "cpu")[0], conditioner([10], "cpu")[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_number_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        NumberConditioner(output_dim=WIDTH)([bad], "cpu")


def test_list_reports_an_unknown_option_once(caplog: pytest.LogCaptureFixture) -> None:
    conditioner = ListConditioner(output_dim=WIDTH, options=["rock", "jazz"])
    with caplog.at_level(logging.WARNING):
        first, _ = conditioner(["polka"], "cpu")
        conditioner(["polka"], "cpu")
    assert caplog.text.count("polka") == 1
    torch.testing.assert_close(first[0, 0], conditioner.embedder.weight[0])


def test_list_names_the_first_unknown_options_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Each clip of a collection may have a title of its own."""
    conditioner = ListConditioner(output_dim=WIDTH, options=["rock"])
    with caplog.at_level(logging.WARNING):
        for number in range(0, 300, 3):
            conditioner([f"title {n:03d}" for n in range(number, number + 3)], "cpu")
    assert [f"title {n:03d}" in caplog.text for n in (0, 99, 100, 299)] == [True, True, False, False]
    assert caplog.text.count("further ones are not named") == 1
    assert len(conditioner._reported) == 100


@pytest.mark.parametrize(
    ("factory", "keywords", "match"),
    [
        (IntConditioner, {"min_val": 5, "max_val": 4}, "max_val"),
        (NumberConditioner, {"min_val": 1, "max_val": 1}, "max_val"),
        (ListConditioner, {"options": ["a", "a"]}, "repeat"),
        (ClipTextConditioner, {"width": 10, "heads": 3}, "multiple"),
        (ClipTextConditioner, {"vocab_size": 100, "width": 8, "heads": 1}, "258"),
        (T5Conditioner, {"t5_model_name": "t5-bse"}, "t5-base"),
    ],
)
def test_wrong_arguments_are_named(factory: type[Conditioner], keywords: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        factory(output_dim=WIDTH, **keywords)


@given(st.text(max_size=40))
def test_bytes_round_trip(text: str) -> None:
    tokenizer = ByteTokenizer(vocab_size=300, max_length=400)
    ids, mask = tokenizer([text])
    row = ids[0][mask[0]].tolist()
    assert row[0] == tokenizer.bos
    assert row[-1] == tokenizer.eos
    assert bytes(row[1:-1]).decode() == " ".join(text.lower().split())


def test_long_prompts_are_cut_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = ByteTokenizer(vocab_size=258, max_length=8)
    with caplog.at_level(logging.WARNING):
        ids, mask = tokenizer(["abcdefghijkl", "a"])
    assert ids.shape == (2, 8)
    assert mask.sum(dim=1).tolist() == [8, 3]
    assert ids[0, -1] == tokenizer.eos
    assert "max_length" in caplog.text


def test_clip_text_has_the_published_size() -> None:
    with torch.device("meta"):
        conditioner = ClipTextConditioner(output_dim=768)
    assert sum(p.numel() for p in conditioner.parameters()) == 123_060_480


def test_clip_text_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        vocab_size=300,
        hidden_act="quick_gelu",
        attn_implementation="eager",
    )
    theirs = transformers.CLIPTextModel(config).eval()
    ours = ClipTextConditioner(
        output_dim=16, width=16, layers=2, heads=2, max_length=12, vocab_size=300
    ).eval()
    state = {
        k.removeprefix("text_model."): v for k, v in theirs.state_dict().items() if "position_ids" not in k
    }
    ours.encoder.load_state_dict(state)
    ids, _ = ours.tokenizer(["kick drum", "bell"])
    with torch.no_grad():
        torch.testing.assert_close(
            ours.encoder(ids), theirs(input_ids=ids).last_hidden_state, atol=1e-5, rtol=1e-5
        )


def test_clip_text_pooled_is_the_end_token() -> None:
    tokens = build("clip_text", pooled=False).eval()
    pooled = build("clip_text", pooled=True).eval()
    pooled.load_state_dict(tokens.state_dict())
    sequence, mask = tokens(["kick", "a bell"], "cpu")
    vector, _ = pooled(["kick", "a bell"], "cpu")
    for row in range(2):
        torch.testing.assert_close(vector[row, 0], sequence[row, mask[row].sum() - 1])


def test_clip_text_frozen() -> None:
    conditioner = build("clip_text", enable_grad=False)
    tensor, _ = conditioner(["kick"], "cpu")
    tensor.sum().backward()
    assert all(p.grad is None for p in conditioner.encoder.parameters())
    assert conditioner.proj_out.weight.grad is not None


def test_t5_sizes_match_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from stable_audio.conditioning.t5 import _transformers_config

    for size in T5_SIZES.values():
        with torch.device("meta"):
            model = transformers.T5EncoderModel(_transformers_config(size))
        assert sum(p.numel() for p in model.parameters()) == size.parameters()


def test_t5_is_not_loaded_before_its_first_use() -> None:
    conditioner = T5Conditioner(output_dim=WIDTH, t5_model_name="t5-base")
    assert conditioner.frozen_parameters() == t5_size("t5-base").parameters()
    assert set(conditioner.state_dict()) == {"proj_out.weight", "proj_out.bias"}


def multi(**keywords: Any) -> MultiConditioner:
    return MultiConditioner(
        {n: NumberConditioner(output_dim=WIDTH, max_val=100) for n in ("start", "total")}, **keywords
    )


def test_missing_metadata_is_named() -> None:
    with pytest.raises(ValueError, match=r"item 1 lacks \['total'\]"):
        multi()([{"start": 1, "total": 2}, {"start": 1}], "cpu")


def test_default_keys_do_not_stick() -> None:
    conditioner = multi(default_keys={"total": "start"})
    tensors = conditioner([{"start": 1}, {"start": 1, "total": 50}, {"start": 50, "total": 1}], "cpu")
    expected = conditioner([{"start": 0, "total": v} for v in (1, 50, 1)], "cpu")
    torch.testing.assert_close(tensors["total"][0], expected["total"][0])


def test_a_bad_value_names_its_conditioner() -> None:
    with pytest.raises(ValueError, match="conditioner 'total'"):
        multi()([{"start": 1, "total": "long"}], "cpu")


def test_pre_encoded_ids_reach_cross_attention() -> None:
    conditioner = multi(pre_encoded_keys=["text"])
    metadata = [{"start": 1, "total": 2, "text": torch.randn(5, WIDTH)} for _ in range(2)]
    cond = SlotWiring(cross_attn_ids=["start", "text"])(conditioner(metadata, "cpu"))
    assert cond.cross_attn is not None
    assert cond.cross_attn.shape == (2, 6, WIDTH)
    assert cond.cross_attn_mask is not None
    assert cond.cross_attn_mask.all()


def test_wiring_fills_every_slot() -> None:
    a, b = torch.randn(2, 1, 3), torch.randn(2, 4, 3)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    short, long = torch.randn(2, 2, 4), torch.randn(2, 1, 8)
    cond = SlotWiring(
        cross_attn_ids=["b", "a"],
        global_ids=["a", "a"],
        prepend_ids=["a"],
        input_concat_ids=["short", "long"],
        local_add_ids=["long", "short"],
    )({"a": (a, None), "b": (b, mask), "short": (short, None), "long": (long, None)})
    assert cond.present() == frozenset(Slot)
    torch.testing.assert_close(cond.cross_attn, torch.cat([b, a], dim=1))
    assert cond.cross_attn_mask[1].tolist() == [True, True, False, False, True]
    torch.testing.assert_close(cond.global_cond, torch.cat([a[:, 0], a[:, 0]], dim=-1))
    torch.testing.assert_close(cond.input_concat[:, :2], short.repeat_interleave(2, dim=-1))
    with pytest.raises(KeyError, match="needs conditioning"):
        SlotWiring(prepend_ids=["c"])({"a": (a, None)})


def test_a_vector_in_input_concat_is_repeated_over_time() -> None:
    vector, flat, frames = torch.randn(2, 1, 3), torch.randn(2, 4), torch.randn(2, 2, 5)
    tensors = {"v": (vector, torch.ones(2, 1, dtype=torch.bool)), "flat": (flat, None), "f": (frames, None)}
    wiring = SlotWiring(input_concat_ids=["v", "f", "flat"], vector_ids=["v"])
    expected = [vector[:, 0, :, None].expand(-1, -1, 5), frames, flat[..., None].expand(-1, -1, 5)]
    torch.testing.assert_close(wiring(tensors).input_concat, torch.cat(expected, dim=1))
    alone = SlotWiring(input_concat_ids=["v"], vector_ids=["v"])(tensors).input_concat
    torch.testing.assert_close(alone, vector[:, 0, :, None])


def test_frames_and_vectors_among_pictures_are_the_same_in_every_row() -> None:
    picture, frames, vector = torch.randn(1, 1, 2, 6), torch.randn(1, 2, 3), torch.randn(1, 2)
    found = SlotWiring(input_concat_ids=["p", "f", "v"])(
        {"p": (picture, None), "f": (frames, None), "v": (vector, None)}
    ).input_concat
    long = frames.repeat_interleave(2, dim=-1)[:, :, None].expand(-1, -1, 2, -1)
    expected = torch.cat([picture, long, vector[..., None, None].expand(-1, -1, 2, 6)], dim=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("slot", "value", "words"),
    [
        (Slot.INPUT_CONCAT, torch.zeros(1, 4, 8), "takes 3 channels in the slot 'input_concat', but 'a'"),
        (Slot.CROSS_ATTN, torch.zeros(1, 4, 8), r"'a' \(1, 4, 8\) bring 8"),
        (Slot.GLOBAL, torch.zeros(1, 8), "takes 3 features in the slot 'global'"),
    ],
)
def test_tensors_of_another_width_are_named_before_the_backbone(slot: Slot, value: Any, words: str) -> None:
    keys = {
        Slot.INPUT_CONCAT: "input_concat_ids",
        Slot.CROSS_ATTN: "cross_attn_ids",
        Slot.GLOBAL: "global_ids",
    }
    wiring = SlotWiring(widths={slot: 3, Slot.PREPEND: None}, **{keys[slot]: ["a"]})
    with pytest.raises(ValueError, match=words):
        wiring({"a": (value, None)})


def test_a_vector_is_a_linear_layer_and_its_mistakes_are_named() -> None:
    conditioner = VectorConditioner(output_dim=2, input_dim=3)
    values = [[1.0, 2.0, 3.0], torch.tensor([[0.0, 0.0, 0.5]])]
    expected = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.5]]) @ conditioner.embedder.weight.T
    torch.testing.assert_close(conditioner(values, "cpu")[0][:, 0], expected + conditioner.embedder.bias)
    assert VectorConditioner(output_dim=2, input_dim=1, bias=False)([0.0], "cpu")[0].abs().sum() == 0
    for wrong, words in (([1.0], "found 1"), ("bell", "found 'bell'"), ([1.0, 2.0, math.nan], "finite")):
        with pytest.raises(ValueError, match=words):
            conditioner([wrong], "cpu")
    with pytest.raises(ValueError, match="input_dim is 0"):
        VectorConditioner(output_dim=2, input_dim=0)


def test_conditioning_cat_pads_tokens() -> None:
    first = Conditioning(cross_attn=torch.ones(1, 2, 3), cross_attn_mask=torch.ones(1, 2, dtype=torch.bool))
    second = Conditioning(cross_attn=torch.ones(1, 4, 3))
    both = Conditioning.cat([first, second])
    assert both.cross_attn.shape == (2, 4, 3)
    assert both.cross_attn_mask.sum(dim=1).tolist() == [2, 4]
    with pytest.raises(ValueError, match="different slots"):
        Conditioning.cat([first, Conditioning()])


@pytest.mark.parametrize("value", [None, [], ["a", "b"], {"a": 1}, True])
def test_text_is_never_made_of_what_is_none(value: Any) -> None:
    """str(None) is a prompt that says "None"."""
    conditioner = MultiConditioner({"prompt": ClipTextConditioner(output_dim=8, width=8, heads=1, layers=1)})
    with pytest.raises(ValueError, match="prompt"):
        conditioner([{"prompt": value}], "cpu")
    refusal = conditioner.value_check().refusal({"prompt": value})
    assert refusal is not None
    assert "prompt" in refusal
    for usable in ("", "a bell", ["a bell"], 1999):
        assert conditioner.value_check().refusal({"prompt": usable}) is None


def test_null_is_missing_and_default_keys_stand_in() -> None:
    check = multi(default_keys={"total": "start"}).value_check()
    assert check.missing({"start": None, "total": None}) == ["start", "total"]
    assert check.missing({"start": 1, "total": None}) == []
    assert check.refusal({"total": "x"}) == (
        "lacks 'start'; 'total' must be a number, found 'x', which the model's conditioning needs"
    )
    assert check.refusal({"start": None, "total": 1}) == (
        "'start' is null, which the model's conditioning needs"
    )
    assert check.beyond({"start": 1, "total": 101}) == ["total"]
    assert pickle.loads(pickle.dumps(check)) == check


def test_values_beyond_the_range_are_clamped_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    number = NumberConditioner(output_dim=WIDTH, max_val=10)
    whole = IntConditioner(output_dim=WIDTH, max_val=10)
    for conditioner in (number, whole):
        caplog.clear()
        tensor, _ = conditioner([11, 5, 1e20], "cpu")
        conditioner([1e300, -1], "cpu")
        torch.testing.assert_close(tensor, conditioner([10, 5, 10], "cpu")[0])
        assert [r.message for r in caplog.records if "11 lies outside 0" in r.message]
        assert len(caplog.records) == 1
        assert conditioner.range.beyond == 4


def test_labels_that_look_like_numbers() -> None:
    conditioner = ListConditioner(output_dim=WIDTH, options=["rock", "1990", "true"])
    rows = conditioner([1990, "1990", True, "rock"], "cpu")[0][:, 0]
    torch.testing.assert_close(rows, conditioner.embedder.weight[[2, 2, 3, 1]])


def test_numbers_may_be_text() -> None:
    number, whole = NumberConditioner(output_dim=WIDTH, max_val=200), IntConditioner(output_dim=WIDTH)
    torch.testing.assert_close(number(["120.5"], "cpu")[0], number([120.5], "cpu")[0])
    torch.testing.assert_close(whole(["4", "4.0"], "cpu")[0], whole([4, 4], "cpu")[0])


def test_sounds_are_checked_before_they_are_read(tmp_path: Path) -> None:
    rule = SoundValue()
    assert "does not exist" in str(rule.refusal(str(tmp_path / "a.wav")))
    assert rule.refusal(5) is not None
    assert rule.refusal(torch.zeros(1, 0)) is not None
    assert rule.refusal((8000, torch.zeros(1, 4))) is None
    assert SourcesValue().refusal(None) is not None
    assert SourcesValue(null=True).refusal(None) is None


def test_a_folder_without_vocabulary_is_no_tokenizer(tmp_path: Path) -> None:
    """transformers makes an empty tokenizer of it, to which all words are unknown."""
    pytest.importorskip("transformers")
    from tests.checkpoints.tiny_pipeline import save_text_encoder

    folder = Path(save_text_encoder(tmp_path / "t5"))
    conditioner = CONDITIONERS["t5"](output_dim=8, t5_model_name=str(folder))
    assert conditioner.tokenizer("rock drum").input_ids == [3, 4, 1]
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(OSError, match="the folder has none of"):
        _ = CONDITIONERS["t5"](output_dim=8, t5_model_name=str(folder)).tokenizer


@pytest.mark.parametrize(("value", "told"), [(10.09, False), (10.2, True), (-0.2, True)])
def test_a_number_just_beyond_its_range_is_not_worth_a_word(
    value: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    number = CONDITIONERS["number"](output_dim=4, min_val=0, max_val=10)
    with torch.no_grad():
        clamped = number([value], "cpu")[0]
        limit = number([min(max(value, 0), 10)], "cpu")[0]
    assert torch.equal(clamped, limit)
    assert ("lies outside" in caplog.text) is told
