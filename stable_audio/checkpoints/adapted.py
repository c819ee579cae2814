"""Adapters and the files of models: merging, extracting, describing and converting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from stable_audio.adapters.base import check_base
from stable_audio.adapters.conversion import check_type, converted, every_strength
from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.extraction import Extraction, check_size, extracted
from stable_audio.adapters.files import Adapter, check_range, check_suffix, write_adapter
from stable_audio.adapters.peft_files import Root, is_peft, read_peft, write_peft
from stable_audio.adapters.report import described
from stable_audio.adapters.spec import AdapterSpec
from stable_audio.adapters.stack import merge_weighted
from stable_audio.adapters.use import add_use
from stable_audio.checkpoints.diffusers.adapters import (
    FILE,
    read_diffusers_adapter,
    write_diffusers_adapter,
)
from stable_audio.checkpoints.loaded_base import LoadedBase, load_base
from stable_audio.checkpoints.run_adapters import read_newest_adapter, use_of
from stable_audio.checkpoints.saving import WeightsLayout, check_target, export

AdapterLayout = Literal["ours", "peft", "diffusers"]


def merge_into(
    base: LoadedBase,
    adapters: Sequence[AdapterSpec],
    *,
    weighted: bool = False,
    any_base: bool = False,
) -> None:
    """Write adapters into the weights of a model, in place.

    Args:
        weighted: add what each adapter does alone, strength times, as stable-audio-3 merges several files;
            otherwise they apply one after the other, as in generation.
        any_base: accept adapters that were trained on another model.

    Raises:
        AdapterError: an adapter of another model, or one that applies at some noise levels only.
    """
    check_mergeable(adapters, weighted=weighted)
    uses = [use_of(spec) for spec in adapters]
    check_base(base.model, [use.adapter for use in uses], name=base.name, any_base=any_base)
    stack = base.stack
    if weighted:
        merge_weighted(stack, [(use.adapter, use.strength) for use in uses])
        return
    for use in uses:
        add_use(stack, use)
    stack.merge()


def check_mergeable(adapters: Sequence[AdapterSpec], *, weighted: bool = False) -> None:
    """Refuse what no weights can have; nothing is read.

    Args:
        weighted: as for `merge_into`.

    Raises:
        AdapterError: no adapter, or one that applies at some noise levels or, weighted, in some layers only.
    """
    if not adapters:
        raise AdapterError("no adapter to merge; name one or several with --adapter (adapters)")
    for spec in adapters:
        if not spec.gate.always:
            raise AdapterError(
                f"--adapter {spec.path}: applies at noise levels from {spec.interval[0]:g} to "
                f"{spec.interval[1]:g}, but weights are the same at all of them; leave out LOW-HIGH "
                "(interval) to merge it"
            )
        if weighted and spec.layer_filter:
            raise AdapterError(
                f"--adapter {spec.path}: has the layer filter '{spec.layer_filter}', but --weighted "
                "(weighted=True) adds what adapters do in all layers; leave out LAYERS (layer_filter) or "
                "--weighted"
            )


def merge_files(
    base: str | Path,
    adapters: Sequence[AdapterSpec],
    output: str | Path,
    *,
    config: Any = None,
    layout: WeightsLayout = "ours",
    dtype: torch.dtype | None = None,
    weighted: bool = False,
    any_base: bool = False,
) -> Path:
    """Write one file with a model and adapters merged into it, which needs neither.

    Args:
        base: as for `load_model`.
        config: as for `load_model`.
        layout: as for `export`, as is `dtype`.
        weighted: as for `merge_into`, as is `any_base`.

    Raises:
        AdapterError: see `merge_into`; nothing is written.
        CheckpointError: see `load_model` and `export`.
    """
    check_mergeable(adapters, weighted=weighted)
    check_target(output, layout)
    loaded = load_base(base, config=config)
    merge_into(loaded, adapters, weighted=weighted, any_base=any_base)
    return export(
        loaded.model,
        output,
        config=loaded.config,
        layout=layout,
        dtype=dtype,
        transforms=loaded.transforms,
        weights=loaded.averaged,
    )


def extract_files(
    base: str | Path,
    tuned: str | Path,
    output: str | Path,
    *,
    config: Any = None,
    rank: int | None = None,
    energy: float | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> Extraction:
    """Write what two checkpoints differ by as an adapter; see `extracted`.

    Args:
        config: as for `load_model`, of both.
    """
    check_suffix(output)
    check_size(rank, energy)
    before, after = load_base(base, config=config), load_base(tuned, config=config)
    result = extracted(
        before.model,
        after.model,
        rank=rank,
        energy=energy,
        include=include,
        exclude=exclude,
        source=f"{after.name} - {before.name}",
    )
    check_range(output, result.adapter)
    write_adapter(output, result.adapter)
    return result


def describe_file(path: str | Path, *, base: str | Path | None = None, config: Any = None) -> dict[str, Any]:
    """Type, rank, layers, norms and origin of an adapter in any layout; see `described`.

    Args:
        base: a model; then also whether the adapter fits it.
        config: as for `load_model`.
    """
    loaded = None if base is None else load_base(base, config=config)
    return described(read_any(path, loaded), None if loaded is None else loaded.model)


def read_any(path: str | Path, base: LoadedBase | None) -> Adapter:
    """Read an adapter in our layout, or that of PEFT or diffusers.

    Args:
        base: the model that it is for; needed for the layout of diffusers.

    Raises:
        AdapterError: no adapter, a damaged file, or no model where one is needed.
    """
    path = Path(path).expanduser()
    if is_peft(path):
        return read_peft(path)
    if path.name == FILE or (path / FILE).is_file():
        if base is None:
            raise AdapterError(
                f"{path}: the layout of diffusers has other layers than the model; name the model with --base"
            )
        return read_diffusers_adapter(path, base.stack, base.config)
    return read_newest_adapter(path)


@dataclass(frozen=True)
class Converted:
    """An adapter that was written.

    Attributes:
        path: its file or folder.
        adapter: as it was written.
        every_strength: whether it equals the first one at every strength, not at 1 alone.
    """

    path: Path
    adapter: Adapter
    every_strength: bool


def convert_adapter(
    source: str | Path,
    output: str | Path,
    *,
    adapter_type: str | None = None,
    base: str | Path | None = None,
    config: Any = None,
    layout: AdapterLayout = "ours",
    root: Root = "backbone",
    any_base: bool = False,
) -> Converted:
    """Write an adapter as one of another type or in another layout, where it gives the same weights.

    Args:
        source: a file or folder of any layout, or the folder of a run.
        output: a name that ends in .safetensors (float16) or .ckpt (float32); for PEFT a folder.
        adapter_type: as for `converted`; None: its own.
        base: its model; needed to change the type, and for the layouts of PEFT and diffusers.
        config: as for `load_model`.
        root: as for `write_peft`.
        any_base: take an adapter that was trained on another model than `base`.

    Raises:
        AdapterError: see `check_base`, `converted` and the functions that write the layouts; nothing is
            written.
    """
    if layout == "ours":
        check_suffix(output)
    if adapter_type is not None:
        check_type(adapter_type)
    loaded = None if base is None else load_base(base, config=config)
    first = read_any(source, loaded)
    old, new = first.settings.adapter_type, adapter_type or first.settings.adapter_type
    if loaded is not None:
        loaded.stack.check(first)
        check_base(loaded.model, [first], name=loaded.name, any_base=any_base)
    adapter = converted(first, new, None if loaded is None else loaded.weights)
    path = Path(output)
    if layout == "ours":
        check_range(path, adapter)
        write_adapter(path, adapter)
    elif loaded is None:
        raise AdapterError(
            f"{source}: the layout of {layout} has the kernels or the layers of the model; name the "
            "model with --base"
        )
    elif layout == "peft":
        path = write_peft(path, adapter, loaded.stack, root=root)
    else:
        path = write_diffusers_adapter(path, adapter, loaded.stack, loaded.config)
    return Converted(path, adapter, every_strength(old, new))
