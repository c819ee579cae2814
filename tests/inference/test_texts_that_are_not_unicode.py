r"""`stable-audio generate` with prompts, names and folders that are not UTF-8, as a shell hands them over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from stable_audio.audio.io import save_audio
from stable_audio.cli import main
from stable_audio.conditioning.tokenizers import ByteTokenizer
from stable_audio.conditioning.values import TextValue
from tests.inference import tiny

LATIN = os.fsdecode(b"caf\xe9")
BYTE = "with the byte E9, which is not UTF-8"


@pytest.fixture
def words(files: tuple[Path, Path]) -> list[str]:
    weights, config = files
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(config)]
    return [*command, "--steps", "1", "--seconds", "0.1", "--device", "cpu"]


def test_text_of_a_model_is_unicode() -> None:
    assert TextValue().refusal("café 🎹") is None
    assert TextValue().refusal(LATIN) == f"must be Unicode text, found 'caf\\udce9' {BYTE}"
    assert TextValue().refusal("\ud83c!") == (
        "must be Unicode text, found '\\ud83c!' with \\ud83c, half of a surrogate pair, which is no character"
    )


@pytest.mark.parametrize("flag", ["--prompt", "--negative-prompt", "--init-prompt", "--to-prompt"])
def test_flags_of_prompts(
    flag: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, flag, LATIN, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f'error: {flag}: found "caf\\udce9" {BYTE}; write it in UTF-8\n'


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--prompts", "{folder}/p.jsonl"],
            f"p.jsonl, line 2: 'prompt' must be Unicode text, found 'caf\\udce9' {BYTE}",
        ),
        (
            ["--condition", f"prompt={LATIN}"],
            f"the command line: 'prompt' must be Unicode text, found 'caf\\udce9' {BYTE}",
        ),
        (
            ["--grid", f"prompt=bell,{LATIN}"],
            f"the command line: 'prompt' must be Unicode text, found 'caf\\udce9' {BYTE}",
        ),
        (
            ["--prompt", "bell", "--name", f"{LATIN}_{{index}}"],
            "cannot be part of a file name on every system",
        ),
    ],
)
def test_other_places_of_texts(
    arguments: list[str], sentence: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "bell"}\n' + json.dumps({"prompt": LATIN}))
    given = [text.replace("{folder}", str(tmp_path)) for text in arguments]
    assert main([*words, *given, "--out", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err


def test_folders_and_sounds_keep_their_names(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / LATIN / "a.flac"
    source.parent.mkdir()
    save_audio(source, 0.1 * torch.randn(1, 640, generator=torch.Generator().manual_seed(0)), tiny.RATE)
    folders = [tmp_path / f"{LATIN}{number}" for number in range(3)]
    clip = ["--prompt", "bell", "--name", "{init_audio}", "--init-audio", str(source)]
    assert main([*words, *clip, "--page", "--out", str(folders[0])]) == 0
    recipe = json.loads((folders[0] / "a.json").read_bytes())["recipe"]
    assert recipe["init_audio"]["path"] == str(source)
    assert "caf\\udce90/a.wav: 0.1 s" in capsys.readouterr().out
    assert "bell" in (folders[0] / "index.html").read_text(encoding="utf-8")
    # The same, again from the recipe, and as the line of a file.
    assert main(["generate", "--from-json", str(folders[0] / "a.json"), "--out", str(folders[1])]) == 0
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"conditioning": {"prompt": "bell"}, "init_audio": str(source), "name": "a"})
    )
    lines = ["--prompts", str(tmp_path / "p.jsonl"), "--name", "{name}"]
    assert main([*words, *lines, "--out", str(folders[2])]) == 0
    first, *others = [next(folder.glob("*.wav")).read_bytes() for folder in folders]
    assert others == [first] * 2


def test_the_name_of_weights_is_told(
    words: list[str], files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / f"{LATIN}{files[0].suffix}"
    weights.write_bytes(files[0].read_bytes())
    words[2] = str(weights)
    assert main([*words, "--prompt", "bell", "--out", str(tmp_path / "out")]) == 2
    assert "the name has the byte E9, which is not UTF-8, and weights need" in capsys.readouterr().err
    (tmp_path / "link.safetensors").symlink_to(weights)
    words[2] = str(tmp_path / "link.safetensors")
    assert main([*words, "--prompt", "bell", "--out", str(tmp_path / "out")]) == 0


def test_bytes_of_any_text() -> None:
    ids, mask = ByteTokenizer(vocab_size=258, max_length=9)(["\ud800", "é"])
    assert ids[0].tolist() == [256, 0xED, 0xA0, 0x80, 257]
    assert ids[1].tolist() == [256, 0xC3, 0xA9, 257, 257]
    assert mask.sum(dim=1).tolist() == [5, 4]
