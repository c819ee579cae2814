"""The sounds of a folder that a model can be trained on, with their captions; and why the others cannot."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_audio.conditioning.values import ValueCheck
from stable_audio.data.audio_dir import AudioDirDataset, AudioDirEntry
from stable_audio.data.base import DataError, ItemFacts, Rejected, has_caption
from stable_audio.data.caption_templates import CaptionTemplates
from stable_audio.data.collate import replaced_keys
from stable_audio.data.crop import CROP_KEYS
from stable_audio.data.inspection import NUM_THREADS
from stable_audio.data.report import printable
from stable_audio.types import Metadata
from stable_audio.wording import plural

NAME_TEMPLATE = "{name}"
"""The caption of a file without one: the words of its name."""

EXACT_BELOW_SECONDS = 10.0
"""Models whose clips are shorter get exact lengths: whole seconds, as longer ones get, would tell them
nothing."""

_FROM_THE_FILE = frozenset({*CROP_KEYS, "path", "relpath", "dataset", "load_time"})


@dataclass(frozen=True)
class FolderClip:
    """A sound that can be used.

    Attributes:
        path: its path in the folder.
        seconds: its length.
        metadata: its caption, and what else is stored beside it.
        from_name: whether the caption was made by the template.
        sample_rate: of the file.
        channels: of the file.
        digest: of the file's content.
    """

    path: str
    seconds: float
    metadata: Mapping[str, Any]
    from_name: bool
    sample_rate: int
    channels: int
    digest: str


@dataclass(frozen=True)
class FolderClips:
    """What a folder holds.

    Attributes:
        folder: the folder, absolute.
        clips: the sounds that can be used, by path.
        unusable: reason -> files.
        ignored: suffix -> number of files that are no sounds.
    """

    folder: Path
    clips: Sequence[FolderClip]
    unusable: Mapping[str, Sequence[str]]
    ignored: Mapping[str, int]

    @property
    def seconds(self) -> float:
        """Length of all sounds together."""
        return sum(clip.seconds for clip in self.clips)

    @property
    def longest(self) -> float:
        """Length of the longest sound in seconds."""
        return max(clip.seconds for clip in self.clips)

    def lines(self, *, sample_rate: int, channels: int) -> Iterator[str]:
        """The report: what is used and how, and every file that is not, by name.

        Args:
            sample_rate: of the model.
            channels: of the model.
        """
        total = len(self.clips) + sum(map(len, self.unusable.values()))
        yield f"sounds       {len(self.clips)} of {total} can be used, {_duration(self.seconds)}"
        named = sum(clip.from_name for clip in self.clips)
        stored = len(self.clips) - named
        yield f"captions     {stored} stored beside the sounds, {named} from the names of files"
        example = next((c for c in self.clips if has_caption(dict(c.metadata))), None)
        if example is not None:
            yield f"             {printable(example.path)}: {printable(str(example.metadata['prompt']))}"
        damaged = [c.path for c in self.clips if replaced_keys(dict(c.metadata))]
        if damaged:
            yield f"             {len(damaged)} could not be read whole, as that of {printable(damaged[0])}"
        rates = Counter(c.sample_rate for c in self.clips if c.sample_rate != sample_rate)
        for rate, count in sorted(rates.items()):
            yield f"             {count} at {rate} Hz, converted to {sample_rate} Hz"
        widths = Counter(c.channels for c in self.clips if c.channels != channels)
        for width, count in sorted(widths.items()):
            yield f"             {count} with {plural(width, 'channel')}, converted to {channels}"
        for reason, files in self.unusable.items():
            yield f"left out     {len(files)}: {printable(reason)}"
            yield from (f"             {printable(path)}" for path in files)
        if self.ignored:
            kinds = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(self.ignored.items()))
            yield f"not read     {kinds}"


def read_folder(
    folder: str | os.PathLike[str],
    *,
    sample_rate: int,
    sample_size: int,
    channels: int,
    caption: str = NAME_TEMPLATE,
    check: ValueCheck | None = None,
) -> FolderClips:
    """Decode every sound of a folder once, which also finds damage and silence.

    Args:
        sample_rate: of the model, as are the next two.
        caption: for sounds without one: a template as in dataset files, or one text for all.
        check: the check of metadata by the model's conditioners.

    Raises:
        DataError: the folder does not exist, or no sound can be used.
    """
    place = Path(folder).expanduser().absolute()
    if not place.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder with the sounds")
    dataset = AudioDirDataset(
        sample_rate=sample_rate,
        sample_size=sample_size,
        audio_channels=channels,
        augment=False,
        datasets=[AudioDirEntry(id="sounds", path=str(place))],
    )
    needs = check.rules if check is not None else ()
    exact = sample_size / sample_rate < EXACT_BELOW_SECONDS
    template = CaptionTemplates(caption) if "{" in caption else None

    def read(index: int) -> FolderClip | Rejected:
        name = os.path.relpath(dataset.paths[index], place)
        facts = dataset.inspect(index)
        if isinstance(facts, Rejected):
            return Rejected(name, facts.reason)
        metadata = _metadata(facts, exact)
        from_name = not has_caption(metadata)
        if from_name:
            path = os.path.join(place.name, name)
            text = caption if template is None else template(path, metadata, dict)
            if text is None and "prompt" in needs:
                return Rejected(name, f"no caption, and it lacks what --caption '{caption}' is made of")
            metadata |= {} if text is None else {"prompt": text}
        refusal = check.refusal({**dict.fromkeys(CROP_KEYS, 0), **metadata}) if check is not None else None
        if refusal is not None:
            return Rejected(name, refusal)
        digest = _digest(dataset.paths[index])
        return FolderClip(name, facts.seconds, metadata, from_name, facts.sample_rate, facts.channels, digest)

    with ThreadPoolExecutor(max_workers=NUM_THREADS) as pool:
        results = list(pool.map(read, range(len(dataset))))
    unusable: dict[str, list[str]] = {}
    for result in (*dataset.problems, *(r for r in results if isinstance(r, Rejected))):
        unusable.setdefault(result.reason, []).append(result.path)
    clips = sorted((r for r in results if isinstance(r, FolderClip)), key=lambda clip: clip.path)
    if not clips:
        reasons = "; ".join(f"{len(files)}: {printable(reason)}" for reason, files in unusable.items())
        raise DataError(f"{place}: none of its {plural(len(results), 'sound')} can be used ({reasons})")
    if "prompt" in needs and caption == NAME_TEMPLATE and not any(_tells(clip) for clip in clips):
        raise DataError(
            f"{place}: no captions: there are none beside the sounds, and names such as '{clips[0].path}' "
            "say nothing; write NAME.txt beside each sound, or give --caption TEXT for all of them"
        )
    return FolderClips(place, clips, dict(sorted(unusable.items())), dict(dataset.ignored))


def _metadata(facts: ItemFacts, exact: bool) -> Metadata:
    stored = {k: v for k, v in facts.metadata.items() if k not in _FROM_THE_FILE}
    total = facts.metadata.get("seconds_total")
    # A side-car may tell the length itself, which counts.
    told = total is not None and total != -(-facts.seconds // 1)
    if told:
        return {**stored, "seconds_total": total}
    return {**stored, "seconds_total": round(facts.seconds, 4)} if exact else stored


def _tells(clip: FolderClip) -> bool:
    """Whether its caption has a letter."""
    return any(c.isalpha() for c in str(clip.metadata.get("prompt", "")))


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
