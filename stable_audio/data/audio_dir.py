"""`dataset_type: audio_dir`: folders of sound files."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stable_audio.audio.tags import read_tags
from stable_audio.data.base import Clip, ClipDataset, ItemFacts, ItemKey, Rejected, check_entries, has_caption
from stable_audio.data.caption_templates import CaptionTemplates
from stable_audio.data.captions import Captions
from stable_audio.data.clips import Choose, ClipMaker, ClipOptions
from stable_audio.data.compact import compact_texts
from stable_audio.data.crop import CROP_KEYS, Crop
from stable_audio.data.custom_metadata import CustomMetadata
from stable_audio.data.facts import inspect_sound
from stable_audio.data.scan import find_files
from stable_audio.options import Flat, takes_keywords
from stable_audio.types import Metadata


@dataclass(frozen=True)
class AudioDirEntry:
    """One folder of an `audio_dir` dataset.

    Attributes:
        id: name of the folder in metadata["dataset"].
        path: folder to scan, with its sub-folders.
        weight: relative chance of each file in the folder.
        keywords: use only files whose name contains one of these words.
        filelist_path: text file with one path (relative to `path`) per line instead of a scan.
        custom_metadata_module: Python file with get_custom_metadata(info, audio).
        manifest: CSV, TSV, JSONL or JSON file with captions.
        captions: read .txt and .json files beside the sound files.
        caption_template: template of a caption from name, folder and tags, for files without a caption; of
            several templates, the first that can be filled.
    """

    id: str
    path: str
    custom_metadata_module: str | None = None
    weight: float = 1.0
    keywords: list[str] | None = None
    filelist_path: str | None = None
    manifest: str | None = None
    captions: bool = True
    caption_template: list[str] | str | None = None


class AudioDirDataset(ClipDataset):
    """Clips of sound files: cropped or padded, resampled, with the model's channels.

    Args:
        clips: the conversion of files to clips; its fields are keywords as well.
        datasets: the folders.
        drop_last: leave out batches that are not full.

    Raises:
        DataError: a folder does not exist or holds no sound file; a setting is out of range.
    """

    @takes_keywords
    def __init__(
        self, *, clips: Flat[ClipOptions], datasets: list[AudioDirEntry], drop_last: bool = True
    ) -> None:
        check_entries(datasets)
        self.drop_last = drop_last
        self.maker = ClipMaker(clips)
        self.entries = datasets
        self.sizes = array("q")
        self.entry_of: list[int] = []
        self.captions: list[Captions] = []
        self.templates: list[CaptionTemplates | None] = []
        self.custom: list[CustomMetadata | None] = []
        self.problems: list[Rejected] = []
        self.ignored: Counter[str] = Counter()
        paths: list[str] = []
        for number, entry in enumerate(datasets):
            paths += self._add(number, entry)
        self.paths: Sequence[str] = compact_texts(paths)
        if any(entry.weight != 1.0 for entry in datasets):
            self.weights = [datasets[e].weight for e in self.entry_of]

    def _add(self, number: int, entry: AudioDirEntry) -> list[str]:
        """Add what one folder has; returns the paths of its sounds."""
        scan = find_files(entry.path, filelist_path=entry.filelist_path, keywords=entry.keywords)
        captions = Captions(entry.path, scan.paths, manifest=entry.manifest, sidecars=entry.captions)
        module = entry.custom_metadata_module
        self.sizes += scan.sizes
        self.entry_of += [number] * len(scan.paths)
        self.captions.append(captions)
        template = entry.caption_template
        self.templates.append(CaptionTemplates(template) if template is not None else None)
        self.custom.append(CustomMetadata(module) if module else None)
        self.problems += [*scan.problems, *captions.problems]
        self.ignored.update(scan.ignored)
        return scan.paths

    def __len__(self) -> int:
        return len(self.paths)

    def item_names(self) -> list[str]:
        folders = [entry.path for entry in self.entries]
        prefixes = [folder.rstrip(os.sep) + os.sep for folder in folders]
        return [below(path, folders[e], prefixes[e]) for path, e in zip(self.paths, self.entry_of)]

    def item_sizes(self) -> Sequence[int]:
        return self.sizes

    def __getitem__(self, key: ItemKey) -> Clip | Rejected:
        """The clip of `key`: audio (audio_channels sample_size) and its metadata."""
        generator = key.generator()
        return self.clip(key.index, self.maker.chooser(generator), generator)

    def sound(self, index: int) -> tuple[str, str]:
        """Unique name and path of the sound file with this index."""
        entry, path = self.entries[self.entry_of[index]], self.paths[index]
        return f"{entry.id}/{os.path.relpath(path, entry.path)}", path

    def clip(self, index: int, choose: Choose, generator: torch.Generator) -> Clip | Rejected:
        """The part of file `index` that `choose` picks."""
        path, number = self.paths[index], self.entry_of[index]

        def describe(crop: Crop) -> Metadata:
            return self._describe(path, number, crop.metadata())

        return self.maker.make(path, path, choose, generator, describe, self.custom[number])

    def stored_metadata(self, index: int) -> Metadata | None:
        path, number = self.paths[index], self.entry_of[index]
        if self.custom[number] is not None:
            return None
        return self._describe(path, number, dict.fromkeys(CROP_KEYS, 0))

    def inspect(self, index: int, *, thorough: bool = True) -> ItemFacts | Rejected:
        path, number = self.paths[index], self.entry_of[index]

        def describe(crop: Crop) -> Metadata:
            return self._describe(path, number, crop.metadata())

        return inspect_sound(
            self.maker, path, path, self.entries[number].id, describe, self.custom[number], thorough=thorough
        )

    def _describe(self, path: str, number: int, crop: Metadata) -> Metadata:
        entry = self.entries[number]
        basics = {"path": path, "relpath": os.path.relpath(path, entry.path), "dataset": entry.id, **crop}
        metadata = {**basics, **self.captions[number](path)}
        template = self.templates[number]
        if template is not None and not has_caption(metadata):
            name_path = os.path.join(os.path.basename(os.path.abspath(entry.path)), basics["relpath"])
            caption = template(name_path, metadata, lambda: read_tags(path))
            metadata |= {} if caption is None else {"prompt": caption}
        return metadata


def below(path: str, folder: str, prefix: str) -> str:
    """`os.path.relpath(path, folder)`, which takes 3 s for a million paths, where that follows from `prefix`,
    the folder with one separator behind it."""
    rest = path.removeprefix(prefix)
    plain = len(rest) < len(path) and rest[:1] not in (os.curdir, os.sep)
    if plain and f"{os.sep}{os.curdir}" not in rest and os.sep * 2 not in rest:
        return rest
    return os.path.relpath(path, folder)
