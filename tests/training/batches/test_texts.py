"""Texts of pretrained encoders in a run: tokenised by the loader's workers, or kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stable_audio.conditioning.pretrained.tokens import TextTokens, TokenisedText
from stable_audio.training.errors import TrainingError
from tests.conditioning.test_text_encoder import save
from tests.training.building import tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

pytest.importorskip("transformers")

CLIPS = {"dataset_type": "synthetic", "num_clips": 4}


def config(folder: Path, **training: Any) -> dict[str, Any]:
    """The tiny model, with prompts that a frozen BERT in `folder` reads."""
    if not folder.exists():
        save(folder, "bert")
    data = tiny_config(**training)
    options = {"model_name": str(folder), "max_length": 12}
    data["model"]["conditioning"]["configs"].append(
        {"id": "prompt", "type": "text_encoder", "config": options}
    )
    data["model"]["diffusion"]["cross_attention_cond_ids"].append("prompt")
    return data


def encoder(run: Any) -> Any:
    return run.module.model.conditioner.conditioners["prompt"]


@pytest.mark.parametrize("workers", [0, 1])
def test_texts_are_tokenised_where_data_is_loaded(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[list[str]] = []
    tokenised = TextTokens.tokenised

    def recording(self: TextTokens, texts: list[str]) -> list[TokenisedText]:
        here.append(list(texts))
        return tokenised(self, texts)

    monkeypatch.setattr(TextTokens, "tokenised", recording)
    run = tiny_run(
        tmp_path, config(tmp_path / "bert"), dataset=CLIPS, batch_size=2, max_steps=2, num_workers=workers
    )
    batches: list[Any] = []
    step = run.module.training_step

    def observed(batch: Any, *rest: Any) -> Any:
        batches.append(batch)
        return step(batch, *rest)

    monkeypatch.setattr(run.module, "training_step", observed)
    assert run.start() == 0
    prompts = [item["prompt"] for batch in batches for item in batch.metadata]
    assert len(prompts) == 4
    assert all(isinstance(p, TokenisedText) and p.recipe == encoder(run).tokens.recipe for p in prompts)
    # What another process does is not recorded here.
    assert bool(here) == (workers == 0)


def test_tokenised_or_not_training_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"dataset": CLIPS, "batch_size": 2, "max_steps": 3}
    data = config(tmp_path / "bert")
    tiny_run(tmp_path, data, name="tokenised", **options).start()
    monkeypatch.setattr("stable_audio.training.batches.loaders.text_preparation", lambda model: None)
    tiny_run(tmp_path, data, name="plain", **options).start()
    assert_same_checkpoint(tmp_path / "tokenised" / "last.ckpt", tmp_path / "plain" / "last.ckpt")


def test_a_run_reads_each_caption_once_and_goes_on_exactly(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": CLIPS, "batch_size": 2}

    def cached(name: str) -> dict[str, Any]:
        return config(tmp_path / "bert", cache_text=str(tmp_path / name))

    whole = tiny_run(tmp_path, cached("a"), name="whole", max_steps=6, **options)
    encoder(whole).cache.patience = 2
    whole.start()
    assert encoder(whole).network.module is None
    assert len(list((tmp_path / "a").rglob("*.safetensors"))) == 4
    assert not any("network" in k or "bert" in k for k in whole.module.state_dict())
    tiny_run(tmp_path, cached("b"), name="parts", max_steps=1, **options).start()
    again = tiny_run(tmp_path, cached("b"), name="parts", max_steps=6, recover=True, **options)
    assert again.start() == 0
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")


def test_a_cache_without_a_frozen_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"\$\.training\.cache_text: no conditioner of the model reads texts"
    ):
        tiny_run(tmp_path, tiny_config(cache_text=str(tmp_path / "c")))
