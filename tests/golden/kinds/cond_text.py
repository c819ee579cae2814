"""Kind `cond_text`: text conditioners around an encoder that is saved to disk and loaded from there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.conditioning import CONDITIONERS, MultiConditioner
from stable_audio.conditioning.pretrained.laion import TEXT, to_transformers
from tests.golden.harness import Case, load_strict

PLACES = {"clap_text": "clap_ckpt_path", "t5gemma": "model_path", "t5": "t5_model_name"}
"""Type -> the key that names the folder."""


def run(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(case, folder)


def _run(case: Case, folder: str) -> dict[str, Any]:
    weights = case.weights()
    own = {k: v for k, v in weights.items() if k.startswith("conditioners.")}
    save_tokenizer(case.extra["vocab"], case.extra["template"], folder)
    save_encoder(case, {k: v for k, v in weights.items() if k not in own}, Path(folder))
    conditioning = case.config["conditioning"]
    multi = MultiConditioner(
        {
            entry["id"]: CONDITIONERS[entry["type"]](
                output_dim=conditioning["cond_dim"], **entry["config"], **{PLACES[entry["type"]]: folder}
            )
            for entry in conditioning["configs"]
        }
    ).eval()
    load_strict(multi, own)
    found: dict[str, Any] = {}
    with torch.no_grad():
        for key, (tensor, mask) in multi(case.extra["metadata"], "cpu").items():
            found.update({f"{key}.emb": tensor, f"{key}.mask": mask})
        for key, (tensor, _) in multi(case.extra["metadata"][:1], "cpu").items():
            found[f"{key}.single"] = tensor
    first = next(iter(multi.conditioners.items()))
    found["input_ids"] = first[1].tokens([item[first[0]] for item in case.extra["metadata"]])[0]
    return found


def save_encoder(case: Case, weights: dict[str, Tensor], folder: Path) -> None:
    """Write the case's encoder as transformers does."""
    import transformers

    settings = case.extra["encoder_config"]
    network: nn.Module
    if case.extra["encoder_class"] == "RobertaModel":
        state = to_transformers(weights, TEXT)
        width = state["text_projection.linear2.weight"].shape[0]
        network = transformers.ClapTextModelWithProjection(
            transformers.ClapTextConfig(**settings, projection_dim=width)
        )
        missing, unexpected = network.load_state_dict(state, strict=False)
        assert not unexpected
        assert not [k for k in missing if k in dict(network.named_parameters())]
    else:
        options = dict(settings)
        encoder_only = {"is_encoder_decoder": options.pop("is_encoder_decoder", False)}
        config = transformers.T5GemmaConfig(**options, **encoder_only)
        network = getattr(transformers, case.extra["encoder_class"])(config)
        load_strict(network, {k.removeprefix("encoder."): v for k, v in weights.items()})
    network.eval().save_pretrained(folder)


def save_tokenizer(vocab: list[str], template: str, folder: str | Path, *, pad: str | None = "<pad>") -> None:
    """Write a tokenizer of whole words, split at white space, with the special tokens of a template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: n for n, word in enumerate(vocab)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, ids[word]) for word in template.split() if word in ids]
    words.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    eos = special[-1][0] if special else None
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=pad,
        unk_token="<unk>",
        eos_token=eos,
    ).save_pretrained(folder)
