"""The report of `stable-audio check` as one dict, for people and programs alike."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

from torch import nn

from stable_audio.checkpoints import CheckpointError
from stable_audio.config import ConfigError, DatasetConfig, ModelConfig, load_config, load_dataset_config
from stable_audio.data import Clip, ClipDataset, DataError, ItemKey, Rejected
from stable_audio.data.foresight import count_refusals
from stable_audio.data.report import printable
from stable_audio.data.s3 import s3_problems
from stable_audio.factory import create_dataset, create_model_from_config
from stable_audio.factory.clip_shape import metadata_check
from stable_audio.factory.pairing import pairing_problems
from stable_audio.model import DiffusionModel
from stable_audio.training.check.deadline import Deadline
from stable_audio.training.check.footprint import Report, describe, describe_autoencoder, planned_memory
from stable_audio.training.options import RunOptions
from stable_audio.training.transforms import transform, transforms_for
from stable_audio.wording import plural

log = logging.getLogger(__name__)

DRY_SECONDS = 5
"""Limit of a dry check, once the program is loaded, but for the plan of memory."""

PLAN_SECONDS = 30
"""Limit of following a training step on shapes."""


def report_on(
    config: str | Path,
    dataset: str | Path | None = None,
    *,
    dry: bool = False,
    lenient: bool = False,
    batch_size: int = RunOptions.batch_size,
) -> Report:
    """Check a model file and a dataset file, and report everything that can be known before training.

    Args:
        config: path of the model file, or name of one that comes with the package.
        dataset: path or name of the dataset file; None: the model file alone is checked.
        dry: shapes only; otherwise a training step, a demo, a save and a reload are done, too.
        lenient: report unknown keys as warnings.
        batch_size: items per step for the memory estimate.

    Returns:
        `errors` and `warnings` (sentences) and, as far as the files allow: `parameters`, `shape`, `slots`,
        `memory`, `checkpoint`, `dataset`, `rehearsal`.
    """
    file = str(dataset) if dataset is not None else None
    report: Report = {"config": str(config), "dataset_file": file, "errors": [], "warnings": []}
    deadline = Deadline(DRY_SECONDS if dry else None)
    importlib.import_module("torch._dynamo")  # optimizers import it, which must not be interrupted half-way
    with _Warnings(report):
        model_config = _attempt(
            report,
            lambda: deadline.run(lambda: load_config(config, lenient=lenient)),
            late=f"{config}: cannot be built within {DRY_SECONDS} seconds, even as shapes; make it smaller",
        )
        data = _attempt(report, lambda: load_dataset_config(dataset, lenient=lenient)) if dataset else None
        if model_config is not None:
            report["errors"] += [f"{config}: {p}" for p in model_config.untrainable]
            model = _model(report, model_config, batch_size, deadline)
            if model is not None and data is not None:
                _check_dataset(report, model, model_config, data, str(dataset), dry, deadline)
            if not dry and not report["errors"]:
                _rehearse(report, model_config, model, data)
    return report


def _model(report: Report, config: ModelConfig, batch_size: int, deadline: Deadline) -> Any:
    """Build the model on the meta device and report its sizes; None if that fails or takes too long."""

    def build() -> tuple[Any, Report]:
        model = create_model_from_config(config, device="meta")
        transform(model, transforms_for(config, RunOptions()))
        kind = describe if isinstance(model, DiffusionModel) else describe_autoencoder
        return model, kind(model, config)

    try:
        result = _attempt(report, lambda: deadline.run(build), source=f"{report['config']}: ")
    except TimeoutError:
        report["warnings"].append(f"{report['config']}: not counted within {DRY_SECONDS} seconds")
        return None
    if result is None:
        return None
    model, sizes = result
    report.update(sizes)
    _plan_memory(report, config, batch_size)
    return model


def _plan_memory(report: Report, config: ModelConfig, batch_size: int) -> None:
    deadline = Deadline(PLAN_SECONDS)
    try:
        report["memory"] = deadline.run(lambda: planned_memory(config, batch_size=batch_size))
    except TimeoutError:
        report["warnings"].append(
            f"{report['config']}: memory not planned within {PLAN_SECONDS} seconds; `stable-audio plan` does"
        )
    # Steps on shapes run the code of every part, which may raise anything; the other sizes do not need them.
    except Exception as error:
        log.debug("the memory was not planned", exc_info=error)
        if not report["errors"]:
            report["warnings"].append(f"{report['config']}: memory not planned: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_dataset(
    report: Report,
    model: Any,
    config: ModelConfig,
    data: DatasetConfig,
    name: str,
    dry: bool,
    deadline: Deadline,
) -> None:
    latents = config.training is not None and config.training.pre_encoded
    report["errors"] += [f"{report['config']}: {p}" for p in pairing_problems(config, data)]
    if dry and any(getattr(entry, "s3_path", None) for entry in getattr(data, "datasets", ())):
        report["warnings"].append(f"{name}: not looked into, since that would download it")
        report["errors"] += [f"{name}: {p}" for p in s3_problems(data.as_dict())]
        return
    try:
        _attempt(
            report,
            lambda: deadline.run(
                lambda: _describe_dataset(report, model, data, pre_encoded=latents), waits=True
            ),
            source=f"{name}: ",
        )
    except TimeoutError:
        report["warnings"].append(
            f"{name}: not looked through within {DRY_SECONDS} seconds; `stable-audio data-report` does"
        )


def _describe_dataset(report: Report, model: nn.Module, config: DatasetConfig, *, pre_encoded: bool) -> None:
    shape = report["shape"]
    runtime = {k: shape[k] for k in ("sample_rate", "sample_size", "audio_channels", "downsampling_ratio")}
    dataset = create_dataset(config, **runtime)
    report["dataset"] = {"type": config.dataset_type, "items": len(dataset)}
    if dataset.ignored:
        report["dataset"]["ignored"] = dict(dataset.ignored)
    check = metadata_check(model)
    if check is not None:
        rejects = count_refusals(dataset, check.refusal, most=_MAX_LOOKED_AT)
        if rejects.total and rejects.total == rejects.inspected:
            raise DataError(
                f"{rejects.summary()}. Add them by side-car captions, custom metadata or 'default_keys'"
            )
        if rejects.total:
            report["warnings"].append(f"{rejects.summary()}; data-report --model-config names them")
        if (sentence := rejects.of_replaced()) is not None:
            report["warnings"].append(sentence)
    clip = _first_usable(report, dataset, model)
    if clip is None:
        return
    audio, metadata = clip
    report["dataset"]["keys"] = sorted(metadata)
    expected = shape["latents"][:-1] if pre_encoded else [shape["audio_channels"]]
    axes = list(audio.shape[:-1])
    if axes != expected:
        what = "latents" if pre_encoded else "audio"
        raise DataError(
            f"the first clip has {_rows(axes)}, but the model takes {what} with {_rows(expected)}"
        )


_MAX_LOOKED_AT = 1000
_MAX_READ = 20


def _first_usable(report: Report, dataset: ClipDataset, model: nn.Module) -> Clip | None:
    """The first usable clip among the first few, with a warning about those that are left out.

    Raises:
        DataError: none of them has the metadata that the model's conditioners read.
    """
    check = metadata_check(model)
    refusals: list[str] = []
    for index in range(min(_MAX_READ, len(dataset))):
        clip = dataset[ItemKey(index, 0)]
        if isinstance(clip, Rejected):
            if not report["dataset"].get("left_out"):
                report["warnings"].append(f"a clip is left out: {printable(clip.path)}: {clip.reason}")
            report["dataset"]["left_out"] = report["dataset"].get("left_out", 0) + 1
            continue
        reason = check.refusal(clip[1]) if check is not None else None
        if reason is None:
            return clip
        refusals.append(f"{reason}; it has {sorted(clip[1])}")
    if refusals:
        raise DataError(
            f"no clip of the first {_MAX_READ} can be trained on: {refusals[0]}. Add what is missing by "
            "side-car captions, custom metadata or 'default_keys'"
        )
    return None


def _rows(shape: list[int]) -> str:
    channels, *rows = shape
    return plural(channels, "channel") + "".join(f" of {plural(r, 'row')}" for r in rows)


def missing_keys(model: nn.Module, metadata: dict[str, Any]) -> list[str]:
    """Metadata keys that the model's conditioners read and a clip lacks."""
    conditioner = getattr(model, "conditioner", None)
    return conditioner.missing(metadata) if conditioner is not None else []


def _rehearse(report: Report, config: ModelConfig, model: nn.Module, dataset: DatasetConfig | None) -> None:
    from stable_audio.training.check.rehearsal import rehearse

    if config.training is None:
        report["warnings"].append("no training section: the model can be used, but not trained")
        return
    dataset = dataset if dataset is not None else _stand_in(config, model)
    if dataset is None:
        report["warnings"].append("no dataset was given: the training step was not tried")
        return
    timings = _attempt(report, lambda: rehearse(config, dataset))
    report["rehearsal"] = {"dataset": dataset.dataset_type, **(timings or {})}


def _stand_in(config: ModelConfig, model: nn.Module) -> DatasetConfig | None:
    """The synthetic dataset, if the model can train on it, else None."""
    metadata = dict.fromkeys(("prompt", "seconds_start", "seconds_total"), 0)
    if config.training.pre_encoded or missing_keys(model, metadata):
        return None
    return load_dataset_config({"dataset_type": "synthetic"})


def _attempt(report: Report, action: Any, *, source: str = "", late: str = "") -> Any:
    """Call `action` and return its result; None after errors, which go into the report.

    Args:
        report: the report.
        action: what to do.
        source: prefix of the errors, unless they have it.
        late: the error if the action runs out of time; without it TimeoutError is raised.
    """
    try:
        return action()
    except TimeoutError:
        if not late:
            raise
        report["errors"].append(late)
    except ConfigError as error:
        report["errors"] += str(error).splitlines()
    except (
        DataError,
        CheckpointError,
        OSError,
        ImportError,
        ArithmeticError,
        ValueError,
        RuntimeError,
    ) as error:
        message = " ".join(str(error).split())
        report["errors"].append(message if message.startswith(source) else source + message)
    return None


_OF_THE_RUN = ("stable_audio.audio", "stable_audio.training")


class _Warnings(logging.Handler):
    """Collects the warnings of the package while a report is made."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        # A rehearsal renders noise from random weights, so warnings about its loudness mean nothing.
        if not record.name.startswith(_OF_THE_RUN):
            self.report["warnings"].append(record.getMessage())

    def __enter__(self) -> _Warnings:
        self._logger = logging.getLogger("stable_audio")
        self._propagated, self._logger.propagate = self._logger.propagate, False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated
