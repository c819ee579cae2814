"""Kind `cond`: run the conditioners of a config on metadata."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from stable_audio.conditioning import CONDITIONERS, Conditioner, MultiConditioner
from stable_audio.conditioning.lut import LookUpConditioner
from stable_audio.config.sections.diffusion import AnyConditioner
from stable_audio.config.sections.sounds import SOUND_CONFIGS
from stable_audio.factory.conditioning import build_conditioner
from tests.golden.harness import Case, load_strict


def run(case: Case) -> dict[str, Any]:
    conditioning = case.config["conditioning"]
    unknown = {c["type"] for c in conditioning["configs"]} - set(CONDITIONERS)
    if unknown:
        pytest.skip(f"conditioner types not built yet: {sorted(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        return _run(case, conditioning, Path(folder))


def _run(case: Case, conditioning: dict[str, Any], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "t5_config" in case.extra:
        found.update(save_tiny_t5(case, folder))
    elif "tokenizer" in case.extra:
        found.update(save_tokenizer(case, folder))
    conditioners = {c["id"]: _build(c, conditioning["cond_dim"], folder) for c in conditioning["configs"]}
    multi = MultiConditioner(
        conditioners,
        default_keys=conditioning.get("default_keys"),
        pre_encoded_keys=conditioning.get("pre_encoded_keys", ()),
    )
    load_strict(multi, case.weights())
    metadata = [{k: _value(case, v) for k, v in item.items()} for item in case.extra["metadata"]]
    for key, (tensor, mask) in multi.eval()(metadata, "cpu").items():
        found[f"{key}.emb"] = tensor
        if mask is not None:
            found[f"{key}.mask"] = mask
    return found


def _build(entry: dict[str, Any], cond_dim: int, folder: Path) -> Conditioner:
    if entry["type"] in SOUND_CONFIGS:
        section = TypeAdapter(AnyConditioner).validate_json(json.dumps(entry))
        return build_conditioner(section, cond_dim=cond_dim)
    return CONDITIONERS[entry["type"]](**_keywords(entry, cond_dim, folder))


def _keywords(entry: dict[str, Any], cond_dim: int, folder: Path) -> dict[str, Any]:
    keywords = {"output_dim": cond_dim, **entry.get("config", {})}
    return {**keywords, **COMPAT.get(entry["type"], lambda k, f: {})(keywords, folder)}


def legacy_int(keywords: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The cases pin a defect: rows of `int` are looked up without subtracting min_val."""
    return {"legacy_index": True} if keywords.get("min_val", 0) != 0 else {}


def stub_phonemes(keywords: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The cases pin a defect: padding counts as text and nothing is cut."""
    return {"legacy_padding": True, "g2p": stub_g2p, "phonemes": PHONEMES}


COMPAT = {
    "int": legacy_int,
    "t5": lambda keywords, folder: {"t5_model_name": str(folder)},
    "lut": lambda keywords, folder: {"tokenizer_name": str(folder)},
    "phoneme": stub_phonemes,
}


def _value(case: Case, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _value(case, v) for key, v in value.items()}
    if isinstance(value, str) and value.startswith("@"):
        name, row = value[1:].split(":")
        return case.inputs[name][int(row)]
    return value


def save_tiny_t5(case: Case, folder: Path) -> dict[str, Any]:
    """Write the case's encoder and tokenizer to `folder`; return what the case says of them."""
    from transformers import T5Config, T5EncoderModel

    tokenizer = tiny_tokenizer(case.extra["vocab"])
    tokenizer.save_pretrained(folder)
    model: nn.Module = T5EncoderModel(T5Config(**case.extra["t5_config"]))
    state = {k.removeprefix("t5sd."): v for k, v in case.group("out").items() if k.startswith("t5sd.")}
    model.load_state_dict(state)
    model.eval().save_pretrained(folder)
    config = case.config["conditioning"]["configs"][0]["config"]
    batch = tokenizer(
        [m["prompt"] for m in case.extra["metadata"]],
        truncation=True,
        max_length=config["max_length"],
        padding="max_length",
        return_tensors="pt",
    )
    with torch.no_grad():
        hidden = {d: model.to(d)(**batch)["last_hidden_state"] for d in (torch.float32, torch.float16)}
    return {
        **batch,
        **{f"t5sd.{k}": v for k, v in state.items()},
        "fp32_hidden": hidden[torch.float32],
        "fp16_hidden": hidden[torch.float16],
    }


def save_tokenizer(case: Case, folder: Path) -> dict[str, Any]:
    """Write the case's tokenizer to `folder`; return the ids and masks of the case's texts."""
    tiny_tokenizer(case.extra["vocab"]).save_pretrained(folder)
    entry = case.config["conditioning"]["configs"][0]
    options = entry["config"]
    tokenizer = LookUpConditioner(output_dim=1, **{**options, "tokenizer_name": str(folder)}).tokenizer
    return dict(
        tokenizer(
            [m[entry["id"]] for m in case.extra["metadata"]],
            truncation=True,
            max_length=options.get("max_length", 1024),
            padding="max_length",
            return_tensors="pt",
        )
    )


PHONEMES = ("<pad>", "<unk>", "<s>", "</s>", "AA0", "AA1", "B", "K", "T", "IY1")
STUB = {"a": "AA1", "b": "B", "c": "K", "t": "T", "e": "IY1"}


def stub_g2p(text: str) -> list[str]:
    """The cases' converter: letters alone, other characters unchanged."""
    return [STUB.get(letter, letter) for letter in text]


def tiny_tokenizer(vocab: list[str]) -> Any:
    """Whole words, split at white space, `</s>` at the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocab)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
