"""Every list of names in docs/ is its registry."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.cli import COMMANDS
from stable_audio.conditioning import CONDITIONERS
from stable_audio.config import load_config
from stable_audio.config.rules import HINTS, RULES
from stable_audio.config.sections.diffusion import SLOT_KEYS
from stable_audio.config.sections.top import MODEL_TYPES
from stable_audio.data import DATASETS
from stable_audio.diffusion.losses import LOSSES
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.processes import BETAS, PROCESSES
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.schedules import SCHEDULES, STEP_SCHEDULES
from stable_audio.diffusion.timesteps import TIMESTEP_SAMPLERS
from stable_audio.factory import create_model_from_config
from stable_audio.inference.rendering.job_lines import read_jobs
from stable_audio.pretransforms import BOTTLENECKS, DECODERS, ENCODERS, PRETRANSFORMS
from stable_audio.pretransforms.discriminators import DISCRIMINATORS
from stable_audio.training.record.loggers import LOGGERS
from stable_audio.types import Slot
from tests.docs.tables import ROOT, code, names, page, section, table, tables

TITLE = "Pretransforms: audio and the space of diffusion"
BACKBONE_NAMES = {*BACKBONES, *UNCOND_BACKBONES}
LISTS: dict[str, tuple[list[str], Iterable[str]]] = {
    "backbones": (names(table("backbones", "Backbones")), BACKBONE_NAMES),
    "conditioners": (names(table("conditioning", "Conditioning", "type")), CONDITIONERS),
    "slots": ([row[0] for row in table("conditioning", "Conditioning", "slot")], [s.value for s in Slot]),
    "slot keys": (names(table("conditioning", "Conditioning", "slot"), 1), SLOT_KEYS.values()),
    "samplers": (names(table("diffusion", "Samplers")), SAMPLERS),
    "schedules": (names(table("diffusion", "Schedules")), SCHEDULES),
    "schedules with steps": (names(tables(section("diffusion", "Schedules"))[1][1:]), STEP_SCHEDULES),
    "objectives": (names(table("diffusion", "Objectives")), OBJECTIVES),
    "processes": (names(table("diffusion", "Processes", "type")), PROCESSES),
    "timestep samplers": (names(table("diffusion", "t in training")), TIMESTEP_SAMPLERS),
    "pretransforms": (
        names(table("pretransforms", TITLE)),
        PRETRANSFORMS,
    ),
    "encoders": (names(table("pretransforms", "Autoencoders", "encoder and decoder")), ENCODERS),
    "decoders": (names(table("pretransforms", "Autoencoders", "encoder and decoder")), DECODERS),
    "rules": (names(table("configuration", "Rules between keys", "rule")), RULES),
    "hints": (names(tables(section("configuration", "Rules between keys"))[1][1:]), HINTS),
    "bottlenecks": (names(table("pretransforms", "Autoencoders", "bottleneck")), BOTTLENECKS),
}


@pytest.mark.parametrize("what", LISTS)
def test_the_table_is_the_registry(what: str) -> None:
    told, registry = LISTS[what]
    assert sorted(told) == sorted(registry)


def row_of(name: str, heading: str, first: str, key: str) -> list[str]:
    (row,) = [r for r in table(name, heading, first) if code(r[0]) == [key]]
    return row


def test_lists_within_rows_are_the_registries() -> None:
    assert set(code(row_of("configuration", "Model files", "key", "model_type")[2])) == set(MODEL_TYPES)
    assert set(code(row_of("diffusion", "Processes", "key of `ddpm`", "beta_schedule")[2])) == set(BETAS)
    (row,) = [r for r in table("pretransforms", "Training an autoencoder") if r[0] == "`discriminator`"]
    assert set(code(row[1])) == set(DISCRIMINATORS)
    assert set(code(row_of("training", "Flags", "", "--logger")[2])) == set(LOGGERS)


def test_lists_of_losses_are_the_registry() -> None:
    """`spectral` is no main term: it is not elementwise."""
    text = section("training", "One step")
    (main,) = re.findall(r"`diffusion` is the main one \((.*?);", text)
    assert {*code(main), "spectral"} == set(LOSSES)
    assert '"type": "spectral"' in text
    row = row_of("configuration", "Training", "key", "loss_configs")
    assert {*code(row[2].split("main term")[1].split(")")[0]), "spectral"} == set(LOSSES)


def test_every_command_is_a_function_of_the_library() -> None:
    rows = table("commands", "From Python", "command")
    assert sorted(names(rows)) == sorted(COMMANDS)
    for module, _, name in (dotted.rpartition(".") for dotted in names(rows, 1)):
        function = getattr(importlib.import_module(module), name)
        assert callable(function)
        assert not function.__module__.startswith("stable_audio.cli")


def test_every_dataset_has_a_section() -> None:
    told = re.findall(r"^## ([a-z_0-9, ]+)$", page("data"), re.MULTILINE)
    sections = [name for heading in told for name in heading.split(", ")]
    assert sorted([*sections, "pre_encoded"]) == sorted(DATASETS)


def shipped(kind: str, folder: str = "") -> set[str]:
    root = ROOT / f"{kind}_configs" / folder
    return {p.relative_to(root).as_posix() for p in root.rglob("*.json") if p.name != "schema.json"}


def test_presets_of_unets_are_those_in_the_folder() -> None:
    assert set(names(table("backbones", "unet", "file"))) == shipped("model", "unet")


def test_files_of_the_bakeoff_are_those_of_its_folder() -> None:
    measured = {f"{n}.json" for n in names(table("backbones", "Comparing backbones"))}
    assert measured <= shipped("model", "bakeoff")


def test_extras_of_the_readme_are_those_of_the_package() -> None:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    scope: dict[str, object] = {}
    exec(text[text.index("EXTRAS = {") : text.index("# Folders of configs")], scope)
    assert names(table("README", "Install")) == list(scope["EXTRAS"])  # type: ignore[call-overload]


def test_pages_are_reachable_from_the_readme() -> None:
    """By links, from page to page; so that nobody has to know a file name."""
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        here = todo.pop()
        seen.add(here)
        links = re.findall(r"\]\(([^)#]+\.md)", here.read_text(encoding="utf-8"))
        found = {(here.parent / link).resolve() for link in links if "://" not in link}
        todo += [path for path in found - seen if path.suffix == ".md"]
    assert {p for p in (ROOT / "docs").rglob("*.md")} <= seen


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


PAGES = [*sorted(ROOT.glob("docs/**/*.md")), *ROOT.glob("*.md")]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_to_headings_find_them(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]*#[^)]+)\)", path.read_text(encoding="utf-8")):
        file, _, target = link.partition("#")
        if "://" in link:
            continue
        text = (path.parent / file if file else path).read_text(encoding="utf-8")
        assert target in {anchor(h) for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}, link


COUNTED = [
    *[("unet", row[0], row[2]) for row in table("backbones", "unet", "file")],
    *[("bakeoff", row[0] + ".json", row[1]) for row in table("backbones", "Comparing backbones")],
]


@pytest.mark.parametrize(("folder", "name", "count"), COUNTED, ids=lambda text: text.strip("`"))
def test_parameters_of_presets_are_counted_right(folder: str, name: str, count: str) -> None:
    path = ROOT / "model_configs" / folder / name.replace("`", "")
    backbone = create_model_from_config(load_config(path), device="meta").backbone
    assert f"{sum(p.numel() for p in backbone.parameters()):,}" == count


def test_keys_of_prompt_lines_are_told(tmp_path: Path) -> None:
    (told,) = re.findall(r"under `conditioning`, beside (.*?), all optional", page("inference"), re.DOTALL)
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"conditioning": {"prompt": "a"}, "wrong": 1}')
    with pytest.raises(ValueError, match="unknown keys") as refused:
        read_jobs(lines)
    allowed = re.findall(r"'(\w+)'", str(refused.value).split("allowed:")[1])
    assert sorted([*code(told), "conditioning"]) == sorted(allowed)
