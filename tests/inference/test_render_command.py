from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from stable_audio.audio.io import read_audio, save_audio
from stable_audio.cli import main, options
from stable_audio.inference.generation.sampled_clips import SampledClips
from stable_audio.inference.precision import DTYPES, place
from stable_audio.inference.rendering import batches, request
from tests.inference import tiny

QUICK = ["--steps", "2", "--device", "cpu"]


@pytest.fixture
def base(files: tuple[Path, Path], tmp_path: Path) -> list[str]:
    weights, model_file = files
    return [
        *["generate", "--ckpt-path", str(weights), "--model-config", str(model_file)],
        *["--out", str(tmp_path / "out"), *QUICK],
    ]


def _made(folder: Path, suffix: str = "wav") -> list[Path]:
    return sorted((folder / "out").glob(f"*.{suffix}"))


def _recipe(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text())


def test_prompts_become_files_with_their_recipes(base: list[str], tmp_path: Path, capsys) -> None:
    arguments = [
        "--prompt",
        "bell",
        "--prompt",
        "drum",
        "--seconds",
        "0.25",
        "--seed",
        "7",
        "--batch-size",
        "2",
    ]
    assert main([*base, *arguments]) == 0
    made = _made(tmp_path)
    assert [p.name[:9] for p in made] == ["0000_bell", "0001_drum"]
    audio, rate = read_audio(made[0])
    assert (audio.shape, rate) == ((1, 250), tiny.RATE)
    content = _recipe(made[1])
    recipe = content["recipe"]
    assert recipe["conditioning"] == {"prompt": "drum", "seconds_total": 0.25}
    assert (recipe["seed"], recipe["sampling"]["sampler"], recipe["sampling"]["steps"]) == (8, "euler", 2)
    assert recipe["config"] == tiny.config()
    assert content["output"]["samples"] == 250
    assert "real-time factor" in capsys.readouterr().out


UNET = {
    "type": "unet",
    "config": {
        "io_channels": tiny.PATCH,
        "channels": 32,
        "multipliers": [1, 2],
        "attention": [False, True],
        "cross_attn": {"dim": 8},
        "global_cond": {"dim": 8},
    },
}


@pytest.mark.parametrize(("backbone", "bits"), [("dit", "int8"), ("unet", "int8"), ("dit", "int4")])
def test_quantised_weights_render_from_the_command_line(backbone: str, bits: str, tmp_path: Path) -> None:
    if bits == "int4":
        pytest.importorskip("torchao")
    config = tiny.config()
    if backbone == "unet":
        config["model"]["diffusion"].update(UNET)
    weights, model_file = tiny.save(tmp_path, config)
    model = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file)]
    audio = {}
    for dtype in ("float32", bits):
        out = ["--out", str(tmp_path / dtype / "out"), "--prompt", "bell", "--subtype", "FLOAT"]
        assert main([*model, *out, *QUICK, "--dtype", dtype]) == 0
        audio[dtype] = read_audio(_made(tmp_path / dtype)[0])[0]
    error = (audio[bits] - audio["float32"]).norm() / audio["float32"].norm()
    # A layer errs by a few percent, by twice that where it has 7 bits; tests of layers hold them to it.
    assert 0 < error < 0.3
    path = _made(tmp_path / bits)[0].with_suffix(".json")
    assert json.loads(path.read_text())["recipe"]["dtype"] == bits
    again = [
        "generate",
        "--from-json",
        str(path),
        "--out",
        str(tmp_path / "again" / "out"),
        "--device",
        "cpu",
    ]
    assert main([*again, "--subtype", "FLOAT"]) == 0
    assert torch.equal(read_audio(_made(tmp_path / "again")[0])[0], audio[bits])
    with pytest.raises(ValueError, match="int8 weights run on the CPU, but the device is cuda"):
        place(tiny.build(config), dtype="int8", device="cuda")


def test_the_types_of_the_command_line_are_those_of_a_recipe() -> None:
    assert ("auto", *DTYPES) == options.RENDER_DTYPES


def test_a_recipe_renders_the_same_sound_again(base: list[str], tmp_path: Path) -> None:
    options = [
        "--negative-prompt",
        "wind",
        "--cfg-scale",
        "3",
        "--sampler",
        "dpmpp-3m-sde",
        "--sigma-max",
        "20",
    ]
    assert main([*base, "--prompt", "bell", "--subtype", "FLOAT", *options]) == 0
    (first,) = _made(tmp_path)
    again = tmp_path / "again"
    recipe = str(first.with_suffix(".json"))
    assert main(["generate", "--from-json", recipe, "--out", str(again / "out"), "--subtype", "FLOAT"]) == 0
    (second,) = _made(again)
    assert second.name == first.name
    assert torch.equal(read_audio(first)[0], read_audio(second)[0])
    assert _recipe(second)["digest"] == _recipe(first)["digest"]


def test_from_json_takes_no_second_opinion(base: list[str], tmp_path: Path, capsys) -> None:
    assert main([*base, "--prompt", "bell"]) == 0
    recipe = str(_made(tmp_path)[0].with_suffix(".json"))
    assert main(["generate", "--from-json", recipe, "--seed", "3", "--steps", "5"]) == 2
    assert "--from-json already sets --seed, --steps" in capsys.readouterr().err
    (tmp_path / "no.json").write_text("{}")
    assert main(["generate", "--from-json", str(tmp_path / "no.json")]) == 2
    assert "is not the JSON of a rendered file" in capsys.readouterr().err


def test_an_interrupted_run_resumes(base: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"prompt": p, "seconds_total": 0.3} for p in ("bell", "drum", "wind", "bell")]
    prompts.write_text("\n".join(json.dumps(line) for line in lines))
    command = [*base, "--prompts", str(prompts)]
    real, calls = batches.undecoded, []

    def failing(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(batches, "undecoded", failing)
    assert main(command) == 130
    assert len(_made(tmp_path)) == 2
    _made(tmp_path)[1].with_suffix(".json").unlink()  # as if killed between the two files of a clip
    before = _made(tmp_path)[0].stat().st_mtime_ns
    monkeypatch.setattr(batches, "undecoded", real)
    capsys.readouterr()
    assert main(command) == 0
    assert "3 rendered, 1 already there" in capsys.readouterr().out
    assert len(_made(tmp_path)) == 4
    assert _made(tmp_path)[0].stat().st_mtime_ns == before
    assert main(command) == 0
    assert "0 rendered, 4 already there" in capsys.readouterr().out
    assert main([*command, "--overwrite"]) == 0
    assert "4 rendered, 0 already there" in capsys.readouterr().out
    assert len(_made(tmp_path)) == 4


def test_batch_size_and_order_do_not_change_a_clip(base: list[str], tmp_path: Path) -> None:
    float_wav = ["--subtype", "FLOAT", "--seconds", "0.2"]
    assert main([*base, "--prompt", "bell", "--count", "3", "--batch-size", "3", *float_wav]) == 0
    together = [read_audio(p)[0] for p in _made(tmp_path)]
    assert main([*base, "--prompt", "bell", "--seed", "2", "--overwrite", *float_wav]) == 0
    seeds = {_recipe(p)["recipe"]["seed"]: p for p in _made(tmp_path)}
    assert torch.allclose(read_audio(seeds[2])[0], together[2], atol=1e-5)


def test_wrapped_lines_give_each_clip_its_own(base: list[str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    line = {"conditioning": {"prompt": "wind"}, "negative_conditioning": {"prompt": "bell"}}
    extra = {"seed": 99, "seconds": 0.1, "name": "My Clip!"}
    prompts.write_text(json.dumps({**line, **extra}) + "\n\n" + json.dumps(line) + "\n")
    assert main([*base, "--prompts", str(prompts), "--seed", "4"]) == 0
    made = _made(tmp_path)
    assert made[0].name.startswith("0000_my-clip_")
    first, second = (_recipe(p)["recipe"] for p in made)
    assert (first["seed"], first["seconds"], second["seed"], second["seconds"]) == (99, 0.1, 5, 0.64)
    assert first["negative_conditioning"] == {"prompt": "bell"}


def test_longer_than_trained_is_rendered_with_a_warning(base: list[str], tmp_path: Path, capsys) -> None:
    assert main([*base, "--prompt", "bell", "--seconds", "1.1"]) == 0
    assert read_audio(_made(tmp_path)[0])[0].shape == (1, 1100)
    assert "clips of 1.1 s, but the model was trained on 0.64 s" in capsys.readouterr().err


def test_init_audio_and_formats(base: list[str], tmp_path: Path) -> None:
    source = tmp_path / "source.wav"
    save_audio(source, 0.5 * torch.sin(torch.arange(640) * 0.1)[None], tiny.RATE)
    options = ["--init-audio", str(source), "--init-noise-level", "0.02", "--format", "flac"]
    assert main([*base, "--prompt", "bell", *options]) == 0
    (made,) = _made(tmp_path, "flac")
    assert soundfile.info(str(made)).format == "FLAC"
    recipe = _recipe(made)["recipe"]
    assert recipe["init_noise_level"] == 0.02
    assert recipe["init_audio"]["path"] == str(source)
    found = read_audio(made)[0][0]
    correlation = torch.corrcoef(torch.stack([found, read_audio(source)[0][0]]))[0, 1]
    assert correlation > 0.95


def test_clipping_is_told_not_hidden(base: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(SampledClips, "audio", lambda clips: torch.full((1, 1, clips.kept), 1.7))
    assert main([*base, "--prompt", "bell"]) == 0
    assert "peak 1.70, CLIPPED" in capsys.readouterr().out
    output = _recipe(_made(tmp_path)[0])["output"]
    assert output["clipped"] is True
    assert output["peak"] == pytest.approx(1.7)


def test_inpainting_from_the_command_line(tmp_path: Path) -> None:
    weights, model_file = tiny.save(tmp_path / "model", tiny.config(inpaint=True))
    source = tmp_path / "source.wav"
    save_audio(source, torch.full((1, 640), 0.5), tiny.RATE)
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file), "--prompt", "bell"]
    command += ["--out", str(tmp_path / "out"), *QUICK, "--inpaint-audio", str(source)]
    assert main([*command, "--inpaint", "0.1", "0.2", "--inpaint", "0.4", "0.5"]) == 0
    recipe = _recipe(_made(tmp_path)[0])["recipe"]
    assert recipe["inpaint_seconds"] == [[0.1, 0.2], [0.4, 0.5]]
    assert main([*command, "--inpaint", "0.3", "0.2"]) == 2


def test_a_span_behind_any_of_the_clips_is_told_before_the_first_is_rendered(tmp_path: Path, capsys) -> None:
    weights, model_file = tiny.save(tmp_path / "model", tiny.config(inpaint=True))
    source, prompts = tmp_path / "a.wav", tmp_path / "prompts.jsonl"
    save_audio(source, torch.zeros(1, 4000), 1000)
    lines = [
        {"conditioning": {"prompt": "bell", "seconds_total": 4}, "seconds": 4},
        {"conditioning": {"prompt": "bell", "seconds_total": 1}, "seconds": 1},
    ]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file), *QUICK]
    command += ["--prompts", str(prompts), "--out", str(tmp_path / "out"), "--inpaint-audio", str(source)]
    assert main([*command, "--inpaint", "2", "3"]) == 2
    assert (
        "prompts.jsonl, line 2: the span 2 to 3 s starts after the end of the clip of"
        in capsys.readouterr().err
    )
    assert not list(tmp_path.glob("out/*.wav"))


def test_unconditional_models_need_no_prompt(tmp_path: Path) -> None:
    weights, model_file = tiny.save(tmp_path / "model", tiny.uncond_config())
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file)]
    assert main([*command, "--out", str(tmp_path / "out"), *QUICK, "--count", "2", "--seed", "5"]) == 0
    assert [_recipe(p)["recipe"]["seed"] for p in _made(tmp_path)] == [5, 6]
    assert main([*command, "--prompt", "bell"]) == 2


def test_a_checkpoint_of_its_own_is_enough(tmp_path: Path) -> None:
    from stable_audio.checkpoints import save_inference_file

    path = tmp_path / "model.safetensors"
    save_inference_file(path, tiny.build(tiny.config()).state_dict(), tiny.config())
    assert (
        main(
            ["generate", "--ckpt-path", str(path), "--prompt", "bell", "--out", str(tmp_path / "out"), *QUICK]
        )
        == 0
    )
    assert len(_made(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "no value for prompt. The model needs prompt (ListConditioner), seconds_total (Number",
        ),
        (["--prompt", "bell", "--sampler", "dpmp"], "did you mean 'dpmpp'"),
        (["--prompt", "bell", "--count", "0"], "--count must be at least 1, found 0"),
        (["--prompt", "bell", "--condition", "note"], "--condition needs KEY=VALUE, found 'note'"),
        (["--prompt", "bell", "--seconds", "-1"], "seconds must be above 0, found -1"),
        (["--prompt", "bell", "--init-audio", "nowhere.wav"], "nowhere.wav"),
        (["--prompt", "bell", "--init-noise-level", "0.5"], "--init-noise-level needs --init-audio"),
        (["--prompt", "bell", "--inpaint", "0", "1"], "--inpaint needs --inpaint-audio"),
        (["--prompts", "nowhere.jsonl"], "error: nowhere.jsonl: no such file or folder\n"),
        (["--prompt", "bell", "--subtype", "foo"], "'foo' is no sample format of wav; allowed: 16, 24, 32"),
        (["--prompt", "bell", "--out", __file__], f"--out {__file__}: {__file__} is not a folder, but"),
        (["--prompt", "bell", "--cfg-rescale", "2"], "scale_phi (cfg_rescale) must be from 0 to 1, found 2"),
    ],
)
def test_mistakes_are_named(base: list[str], arguments: list[str], message: str, capsys) -> None:
    assert main([*base, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "bell"}\n{"prompt": ', "line 2, column 12: is not JSON"),
        ("[1]", "line 1: must hold a JSON object, found list"),
        ('{"conditioning": {}, "prompt": "bell"}', "unknown keys ['prompt'] beside 'conditioning'"),
        ('{"conditioning": {"prompt": "bell"}, "seed": "x"}', "'seed' must be an integer, found \"x\""),
        ('{"conditioning": {"prompt": "bell"}, "seconds": true}', "'seconds' must be a number, found true"),
        ('{"conditioning": {"prompt": "bell"}, "seconds": 0}', "'seconds' must be a finite number above 0"),
        (
            '{"prompt": "bell", "prompt": "drum"}',
            "line 1: cannot be parsed: an object has the key 'prompt' tw",
        ),
        ("\n", "has no lines"),
        ('{"prompt": "bell"}\n{"seconds_total": 1}', "line 2: no value for prompt (1 of 2 clips"),
    ],
)
def test_mistakes_in_prompt_files_are_named(
    base: list[str], tmp_path: Path, text: str, message: str, capsys
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(text)
    assert main([*base, "--prompts", str(prompts)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mistakes_of_every_kind_are_told_in_one_run(base: list[str], tmp_path: Path, capsys) -> None:
    lines = [
        {"seed": "x"},
        {"inpaint": "3"},
        {"adapters": ["nowhere.safetensors"]},
        {"init_audio": str(tmp_path / "nowhere.wav")},
        {"window_seconds": -1},
        {"seed": 1},
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"conditioning": {"prompt": "bell"}, **line}) for line in lines))
    assert main([*base, "--prompts", str(prompts)]) == 2
    told = capsys.readouterr().err
    assert [n for n in range(1, 7) if f"prompts.jsonl, line {n}: " in told] == [1, 2, 3, 4, 5]


def test_whole_and_broken_seconds_have_one_recipe(base: list[str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"conditioning": {"prompt": "bell"}, "seconds": 1}\n')
    assert main([*base, "--prompts", str(prompts)]) == 0
    (made,) = _made(tmp_path)
    assert (
        main(["generate", "--from-json", str(made), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    )
    assert _made(tmp_path) == [made]


def test_keys_that_nothing_reads_are_told(base: list[str], capsys) -> None:
    assert main([*base, "--prompt", "bell", "--condition", "tempo=120"]) == 0
    assert "the model does not read tempo; it reads prompt, seconds_total" in capsys.readouterr().err


def test_no_model(capsys) -> None:
    assert main(["generate", "--prompt", "bell"]) == 2
    assert "give --ckpt-path" in capsys.readouterr().err


def test_a_page_plays_every_clip(base: list[str], tmp_path: Path) -> None:
    arguments = [*base, "--prompt", "bell <low>", "--prompt", "drum", "--page"]
    assert main(arguments) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    for made in _made(tmp_path):
        assert f'href="{made.name}"' in page
        picture = tmp_path / "out" / "thumbnails" / f"{made.name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert "bell &lt;low&gt;" in page
    assert "<low>" not in page
    assert "://" not in page
    # A second run renders nothing, but its page still holds everything.
    assert main(arguments) == 0
    assert (tmp_path / "out" / "index.html").read_text() == page


def test_levels_of_a_schedule_reach_recipe_and_repetition(base: list[str], tmp_path: Path, capsys) -> None:
    listed = ["--sampler", "unipc", "--schedule", "1,0.7,0.3,0"]
    assert main([*base[:-4], "--device", "cpu", "--prompt", "bell", *listed]) == 0
    (made,) = _made(tmp_path)
    recipe = _recipe(made)["recipe"]["sampling"]
    assert (recipe["schedule"], recipe["steps"]) == ([1.0, 0.7, 0.3, 0.0], 3)
    again = tmp_path / "again"
    assert main(["generate", "--from-json", str(made.with_suffix(".json")), "--out", str(again)]) == 0
    assert (again / made.name).read_bytes() == made.read_bytes()
    assert main([*base, "--prompt", "bell", *listed]) == 2  # QUICK asks for two steps
    assert "steps is 2, but the schedule lists 4 levels" in capsys.readouterr().err
    assert main([*base, "--prompt", "bell", "--schedule", "1,x"]) == 2
    assert "found '1,x'" in capsys.readouterr().err


def _without(key: str) -> Any:
    return lambda recipe: recipe.pop(key)


def _with(**values: Any) -> Any:
    return lambda recipe: recipe.update(values)


def _sampled(**values: Any) -> Any:
    return lambda recipe: recipe["sampling"].update(values)


EDITS = [
    (_without("seed"), r"\$\.recipe\.seed: missing"),
    (_with(seed="7"), r"\$\.recipe\.seed: found \"7\""),
    (_with(sede=7), r"\$\.recipe\.sede: unknown key; did you mean 'seed'"),
    (_with(seconds="long"), r"\$\.recipe\.seconds: found"),
    (_with(seed=-3), r"\$\.recipe\.seed: found -3; it must be at least 0"),
    (_with(seconds=-1.0), r"\$\.recipe\.seconds: found -1\.0; it must be above 0"),
    (_with(sample_size=0), r"\$\.recipe\.sample_size: found 0"),
    (_with(sample_size=10**12), r"\$\.recipe\.sample_size: found 1000000000000"),
    (_with(dtype="int2"), r"\$\.recipe\.dtype: found 'int2'; allowed: float32"),
    (_with(checkpoint="model.ckpt"), r"\$\.recipe\.checkpoint: found"),
    (_with(checkpoint={"path": "nowhere.ckpt", "digest": "0"}), "nowhere.ckpt: no such file"),
    (_with(conditioning=["bell"]), r"\$\.recipe\.conditioning: found"),
    (_with(conditioning={}), "no value for prompt"),
    (_with(sampling=None), r"\$\.recipe\.sampling: found null"),
    (_sampled(cfg_interval=1), r"\$\.recipe\.sampling\.cfg_interval: found 1"),
    (_sampled(stepps=4), r"\$\.recipe\.sampling\.stepps: unknown key; did you mean 'steps'"),
    (_sampled(steps=0), r"\$\.recipe\.sampling: steps must be at least 1"),
    (_sampled(sampler="euller"), r"\$\.recipe\.sampling: unknown sampler 'euller'; did you mean 'euler'"),
    (_sampled(schedule="sine"), r"\$\.recipe\.sampling: unknown schedule 'sine'"),
    (
        _sampled(schedule=[1.0, 0.5]),
        r"\$\.recipe\.sampling: a schedule as a list must fall to 0.*found 1, 0\.5",
    ),
    (_with(config={"model_type": "dit"}), r"first\.json, config: \$\.model_type: found \"dit\""),
    (_with(init_audio={"path": "no.wav", "digest": "0"}), r"\$\.recipe\.init_noise_level: missing"),
    (_with(inpaint_seconds=[[2.0, 1.0]]), r"\$\.recipe\.inpaint_seconds\[0\]: found \[2\.0, 1\.0\]"),
]


@pytest.mark.parametrize(("edit", "words"), EDITS)
def test_an_edited_recipe_is_one_sentence(
    edit: Any, words: str, base: list[str], tmp_path: Path, capsys
) -> None:
    assert main([*base, "--prompt", "bell"]) == 0
    content = _recipe(_made(tmp_path)[0])
    edit(content["recipe"])
    path = tmp_path / "first.json"
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["generate", "--from-json", str(path), "--out", str(tmp_path / "again")]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ")
    assert re.search(words, line), line


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "\0"])
def test_what_is_no_recipe_is_one_sentence(text: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "first.json"
    path.write_text(text)
    assert main(["generate", "--from-json", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_all_bad_lines_of_a_job_file_are_named_at_once(base: list[str], tmp_path: Path, capsys) -> None:
    prompts = tmp_path / "prompts.jsonl"
    deep = '{"a":' * 3000 + "1" + "}" * 3000
    prompts.write_text(f'{{"prompt": "bell"}}\n[1]\n\n{{"prompt"\n{deep}\n')
    assert main([*base, "--prompts", str(prompts)]) == 2
    told = capsys.readouterr().err
    assert all(f"prompts.jsonl, line {n}" in told for n in (2, 4, 5))
    assert "nests deeper" in told
    assert not (tmp_path / "out").exists()


def test_the_processes_of_a_launcher_share_the_clips(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    prompts = [word for name in ("a", "b", "c") for word in ("--prompt", name)]
    assert main([*base, *prompts]) == 0
    alone = {p.name: p.read_bytes() for p in _made(tmp_path)}
    base[base.index("--out") + 1] = str(tmp_path / "shared" / "out")
    counts = []
    for rank in ("0", "1"):
        for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        assert main([*base, *prompts, "--page"]) == 0
        told = capsys.readouterr()
        assert f"process {rank} of 2" in told.err
        counts.append(told.out.count(" x real time"))
    assert counts == [2, 1]
    assert {p.name: p.read_bytes() for p in _made(tmp_path / "shared")} == alone
    page = (tmp_path / "shared" / "out" / "index.html").read_text()
    assert all(name in page for name in alone)


def test_a_batch_that_does_not_fit_on_the_gpu_is_halved(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: list[int] = []
    whole = batches._sampled

    def short_of_memory(model: Any, *settings: Any) -> Any:
        sizes.append(len(settings[-1]))
        if len(settings[-1]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, *settings)

    monkeypatch.setattr(batches, "_sampled", short_of_memory)
    assert main([*base, "--prompt", "bell", "--count", "5", "--batch-size", "4"]) == 0
    assert sizes == [4, 2, 2, 1]
    assert len(_made(tmp_path)) == 5
    assert "4 clips at once do not fit in memory: continuing with 2" in caplog.text


def test_clips_at_once_by_device() -> None:
    assert [batches.default_batch(torch.device(d)) for d in ("cpu", "cuda", "cuda:1")] == [1, 8, 8]


@pytest.mark.parametrize(("frames", "clips"), [(65536, 8), (4096, 8), (1024, 16), (512, 32), (54, 64)])
def test_short_clips_fill_a_gpu_together(frames: int, clips: int) -> None:
    assert batches.default_batch(torch.device("cuda"), frames) == clips
    assert batches.default_batch(torch.device("cpu"), frames) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "bell", "--sampler", "euller"], "unknown sampler 'euller'"),
        (["--prompt", "bell", "--schedule", "sine"], "unknown schedule 'sine'"),
        (["--prompt", "bell", "--steps", "0"], "steps must be at least 1"),
        (["--prompts", "absent.jsonl"], "absent.jsonl"),
        (["--prompt", "bell", "--device", "cuda:99"], "this machine has no such device"),
        (["--prompt", "bell", "--device", "gpu"], "device: 'auto'"),
        (["--prompt", "bell", "--condition", "tempo"], "--condition needs KEY=VALUE"),
        (["--prompt", "bell", "--condition", "tempo=" + "[" * 9999], "--condition tempo: nests deeper"),
        (["--prompt", "bell", "--seed", "-2"], "or -1 for a random one"),
        (["--prompt", "bell", "--init-audio", "absent.wav"], "absent.wav"),
        (["--prompt", "bell", "--inpaint-audio", "a.wav", "--inpaint", "2", "1"], "0 <= START < END"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(
    base: list[str], arguments: list[str], words: str, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(request, "load_render_model", lambda *a, **k: pytest.fail("the model was loaded"))
    assert main([*base, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_every_job_with_a_bad_value_is_named_with_its_line(base: list[str], tmp_path: Path, capsys) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": "bell"},
        {"prompt": "bell", "seconds_total": "long"},
        {"conditioning": {"prompt": "drum"}, "negative_conditioning": {"seconds_total": [1, 2]}},
    ]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    assert main([*base, "--prompts", str(prompts)]) == 2
    told = capsys.readouterr().err
    assert "line 1:" not in told
    assert "line 2: 'seconds_total'" in told
    assert "line 3: 'seconds_total'" in told
    assert not (tmp_path / "out").exists()
    prompts.write_text("\n".join(json.dumps({"seconds_total": n}) for n in (1, 2)))
    assert main([*base, "--prompts", str(prompts)]) == 2
    told = capsys.readouterr().err
    assert "line 1: no value for prompt" in told
    assert "line 2: no value for prompt" in told


def test_a_page_keeps_the_clips_of_earlier_runs(base: list[str], tmp_path: Path) -> None:
    assert main([*base, "--prompt", "bell", "--page"]) == 0
    assert main([*base, "--prompt", "drum", "--page"]) == 0
    (tmp_path / "out" / "notes.json").write_text('{"format": "stable-audio render"}')
    (tmp_path / "out" / "more.json").write_text("[" * 5000)
    assert main([*base, "--prompt", "wind", "--page"]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert len(_made(tmp_path)) == 3
    assert all(path.name in page for path in _made(tmp_path))


def test_seed_minus_one_is_random_and_told(base: list[str], tmp_path: Path, capsys) -> None:
    for _ in range(2):
        assert main([*base, "--prompt", "bell", "--seed", "-1"]) == 0
    told = re.findall(r"the first seed is (\d+)", capsys.readouterr().err)
    assert sorted(_recipe(p)["recipe"]["seed"] for p in _made(tmp_path)) == sorted(map(int, told))
    assert len(set(told)) == 2


def test_a_negative_prompt_without_guidance_is_told(base: list[str], capsys) -> None:
    assert main([*base, "--prompt", "bell", "--negative-prompt", "wind", "--cfg-scale", "1"]) == 0
    assert "negative prompts have no effect" in capsys.readouterr().err
    assert main([*base, "--prompt", "bell", "--negative-prompt", "wind", "--cfg-scale", "2"]) == 0
    assert "have no effect" not in capsys.readouterr().err


def test_a_render_tidies_what_a_killed_one_left(base: list[str], tmp_path: Path) -> None:
    left = tmp_path / "out" / ".0000_bell.0123abcd.partial.wav"
    left.parent.mkdir()
    left.write_text("part")
    os.utime(left, (0, 0))
    assert main([*base, "--prompt", "bell"]) == 0
    assert not left.exists()
    assert len(_made(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sigma-max", "5"], "warning: --sigma-max 5 means 1 here"),
        (["--sigma-max", "1"], None),
        (["--init-audio", "TAKE", "--init-noise-level", "3"], "warning: --init-noise-level 3 means 1 here"),
        (["--init-audio", "TAKE", "--init-noise-level", "1"], None),
        (["--sampler", "dpmpp", "--schedule", "karras", "--sigma-max", "5"], None),
    ],
)
def test_levels_above_pure_noise_are_said(
    base: list[str], arguments: list[str], words: str | None, tmp_path: Path, capsys
) -> None:
    take = tmp_path / "take.wav"
    save_audio(take, torch.zeros(1, 100), tiny.RATE)
    arguments = [str(take) if part == "TAKE" else part for part in arguments]
    assert main([*base, "--prompt", "bell", *arguments]) == 0
    error = capsys.readouterr().err
    assert (words in error) if words else ("means 1 here" not in error)


def test_a_value_that_is_clamped_is_named_with_its_range(base: list[str], caplog) -> None:
    assert main([*base, "--prompt", "bell", "--condition", "seconds_total=-5"]) == 0
    assert "'seconds_total' -5 lies outside 0" in caplog.text


@pytest.mark.parametrize(("written", "found"), [("5", "5"), ('["bell"]', "a list of 1")])
def test_a_text_is_written_as_one(written: str, found: str, tmp_path: Path, capsys) -> None:
    values = tiny.config()
    values["model"]["conditioning"]["configs"][0] = {"id": "prompt", "type": "words", "config": {}}
    weights, model_file = tiny.save(tmp_path, values)
    lines = tmp_path / "lines.jsonl"
    lines.write_text(f'{{"prompt": "bell"}}\n{{"prompt": {written}}}\n')
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file), *QUICK]
    assert main([*command, "--prompts", str(lines), "--out", str(tmp_path / "out")]) == 2
    message = f"{lines}, line 2: 'prompt' must be text, found {found}; put a text in quotes"
    assert message in capsys.readouterr().err
