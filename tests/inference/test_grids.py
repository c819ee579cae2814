"""Job files with grids: every combination once, the same in JSON, YAML and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stable_audio.cli.key_values import grid_axes
from stable_audio.inference.rendering.job_lines import JobLine, jobs_of, read_jobs
from stable_audio.inference.rendering.jobs import Job, complete, repeated
from tests.inference import tiny

LINE: dict[str, Any] = {
    "conditioning": {"seconds_total": 4},
    "steps": 8,
    "grid": {"prompt": ["bell", "drum"], "seed": [3, 4], "cfg_rescale": [0, 0.5]},
}
YAML = """
- conditioning: {seconds_total: 4}
  steps: 8
  grid:
    prompt: [bell, drum]
    seed: [3, 4]
    cfg_rescale: [0, 0.5]
"""


def _of(**line: Any) -> list[Job]:
    return jobs_of([JobLine(line, "here")])


def test_a_grid_is_every_combination_the_last_axis_fastest(tmp_path: Path) -> None:
    path = tmp_path / "grid.jsonl"
    path.write_text(json.dumps(LINE))
    jobs = read_jobs(path)
    told = [(j.conditioning["prompt"], j.seed, j.sampling["scale_phi"]) for j in jobs]
    assert told == [(p, s, c) for p in ("bell", "drum") for s in (3, 4) for c in (0, 0.5)]
    assert all(j.conditioning["seconds_total"] == 4 and j.sampling["steps"] == 8 for j in jobs)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("grid.yaml", YAML),
        ("grid.yml", YAML.replace("- conditioning", "  conditioning")),
        ("grid.json", json.dumps([LINE], indent=1)),
        ("grid.json", json.dumps(LINE, indent=1)),
    ],
)
def test_every_format_of_file_says_the_same(name: str, text: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / name).write_text(text)
    (tmp_path / "grid.jsonl").write_text(json.dumps(LINE))
    assert [(j.conditioning, j.seed, j.sampling) for j in read_jobs(tmp_path / name)] == [
        (j.conditioning, j.seed, j.sampling) for j in read_jobs(tmp_path / "grid.jsonl")
    ]


def test_a_json_file_may_hold_one_object_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"prompt": "bell"}\n{"prompt": "drum"}\n')
    assert [j.conditioning["prompt"] for j in read_jobs(tmp_path / "a.json")] == ["bell", "drum"]


def test_axes_reach_parts_of_a_line() -> None:
    jobs = _of(
        conditioning={"prompt": "bell"},
        negative_conditioning={"mood": "sad"},
        sampler="dpmpp-3m-sde",
        grid={"negative_conditioning.prompt": ["hum", "wind"], "sampler_options.eta": [0.5]},
    )
    assert [j.negative for j in jobs] == [{"mood": "sad", "prompt": "hum"}, {"mood": "sad", "prompt": "wind"}]
    assert jobs[0].sampling["options"] == {"eta": 0.5}
    assert jobs[0].negative is not jobs[1].negative


def test_clips_of_a_grid_share_the_seeds_of_the_run() -> None:
    model = tiny.build(tiny.config())
    line = JobLine({"conditioning": {"prompt": "bell"}, "grid": {"cfg_scale": [1, 2]}})
    plain = JobLine({"prompt": "drum"})
    jobs = complete(repeated(jobs_of([plain, line]), 2), model, first_seed=7)
    assert [j.seed for j in jobs] == [7, 8, 7, 8, 7, 8]


def test_axes_of_the_command_line_multiply_those_of_a_line() -> None:
    axes = grid_axes(["cfg_scale=1.5,4", "sampler=euler, rk4", 'prompt=["a, b"]', "seed=5"])
    assert axes == {"cfg_scale": [1.5, 4], "sampler": ["euler", "rk4"], "prompt": ["a, b"], "seed": [5]}
    lines = [JobLine({"conditioning": {}, "grid": {"steps": [2, 3]}}), JobLine({"seconds_total": 2})]
    jobs = jobs_of(lines, axes)
    assert len(jobs) == 2 * 4 + 4
    assert {j.conditioning["prompt"] for j in jobs} == {"a, b"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"grid": []}, "here: 'grid' must be an object of lists"),
        ({"grid": {"seed": 3}}, "here: 'grid.seed' must be a list of values, found 3"),
        ({"grid": {"seed": [3, 4, 3]}}, "here: 'grid.seed' has 3 twice"),
        ({"grid": {"seed": [1], "steps": []}}, r"here: 'grid.steps' must be a list of values, found \[\]"),
        ({"seed": 1, "grid": {"seed": [1]}}, "here: 'seed' has a value beside its axis"),
        ({"prompt": "bell", "grid": {"seed": [1]}}, r"unknown keys \['prompt'\] beside 'grid'"),
        ({"grid": {"a": list(range(1000)), "b": list(range(1000))}}, "has 1000000 combinations"),
        ({"grid": {"steps": [4, 0]}}, "here: steps must be at least 1, found 0"),
        ({"grid": {"sampler": ["euller"]}}, "here: unknown sampler 'euller'; did you mean 'euler'"),
        ({"conditioning": {}, "cfg_scale": "high"}, r"here: \$\.cfg_scale: found \"high\""),
    ],
)
def test_mistakes_in_a_grid_are_named(line: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _of(**line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- prompt: bell\n  prompt: drum\n", "line 2: has the key 'prompt' twice"),
        ("- prompt: 2020-01-01\n", "is no JSON value"),
        ("- {1: bell}\n", "the key 1 must be a text"),
        ("- bell\n- {prompt: drum}\n", "entry 1: must be an object, found str"),
        ("prompt: [bell\n", "is not YAML that can be used"),
        ("bell", "must hold an object or a list of them, found str"),
        ("[]", "has no lines"),
        ("&a [*a]", "nests deeper"),
        ("[" * 5000, "is not YAML that can be used"),
    ],
)
def test_mistakes_in_yaml_are_named(text: str, message: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"grid.yaml.*{message}"):
        read_jobs(path)


def test_a_broken_json_file_is_one_mistake(tmp_path: Path) -> None:
    path = tmp_path / "clips.json"
    path.write_text('[\n {"prompt": "bell"},\n {"prompt": "drum"\n]')
    with pytest.raises(ValueError, match=r"clips\.json: line 4, column 1: is not JSON[^\n]*$"):
        read_jobs(path)
    path.write_text('{"prompt": "bell"}\n{"prompt": "drum"')
    with pytest.raises(ValueError, match=r"clips\.json, line 2, column 18: is not JSON"):
        read_jobs(path)
