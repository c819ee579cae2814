"""CRC-32 checksums of checkpoint files: written with them, verified when they are read.

A `.ckpt` is a zip archive, which has a checksum for each of its members. torch.save computes them in one
thread and torch.load does not look at them; here zlib does both in several, so that files of other programs
are verified as well. A safetensors file has no place for checksums but its metadata, where ours stand.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from stable_audio.audio.json_files import parse_json_object
from stable_audio.nn.hashing import in_threads, tensor_digest
from stable_audio.wording import plural

ALGORITHM_KEY, CHECKSUMS_KEY = "checksum_algorithm", "checksums"
"""Metadata of a safetensors file with checksums. There are two keys, so that damage to one of them shows."""

_ALGORITHM = "crc32"
_BLOCK = 1 << 22


def save_torch_file(content: Mapping[str, Any], path: Path) -> None:
    """`torch.save` with the same checksums, but computed in several threads, members side by side.

    Raises:
        OSError, RuntimeError: the file could not be written; torch reports a full disk as RuntimeError.
    """
    with _without_torch_checksums():
        torch.save(content, path)
    with _read_back(), zipfile.ZipFile(path) as archive:
        members, directory = archive.infolist(), archive.start_dir
    with _read_back(), open(path, "rb+") as file:
        parts = [(_data_begin(file, m), m.file_size) for m in members]
        checksums = in_threads(lambda part: _of_part(path, *part), parts)
        for member, (begin, size), checksum in zip(members, parts, checksums):
            directory = _write_checksum(file, member, directory, begin + size, checksum)


def verify_torch_file(content: Mapping[str, Any], path: Path) -> None:
    """Read a file that `save_torch_file` has written back from the disk, and compare it with its content.

    Raises:
        OSError: the file does not hold what should have been written.
    """
    _from_the_disk(path)
    with _read_back(), zipfile.ZipFile(path) as archive:
        stored = Counter((m.file_size, m.CRC) for m in archive.infolist())
    storages = {s.data_ptr(): s for s in _storages(content) if s.nbytes() and s.device.type == "cpu"}
    sums = in_threads(lambda storage: (storage.nbytes(), _of_storage(storage)), storages.values())
    missing = sum((Counter(sums) - stored).values())
    with _read_back():
        damaged = [] if missing else damaged_members(path)
    if missing or damaged:
        count = missing or len(damaged)
        where = plural(count, "part")
        raise OSError(f"it differs from what was written in {where}, as after a fault of disk or memory")


def verify_safetensors(path: Path) -> None:
    """Read a safetensors file with checksums back from the disk, tensor by tensor, and compare it with them.

    Raises:
        OSError: the file does not hold what should have been written.
    """
    from safetensors import safe_open

    _from_the_disk(path)
    with _read_back(), safe_open(str(path), framework="pt", device="cpu") as file:
        expected = json.loads((file.metadata() or {})[CHECKSUMS_KEY])["tensors"]
        wrong = [
            key
            for key, checksum in expected.items()
            if checksum_text(_of_tensor(file.get_tensor(key))) != checksum
        ]
    if wrong:
        where = plural(len(wrong), "tensor")
        raise OSError(f"it differs from what was written in {where}, as after a fault of the disk")


@contextmanager
def _read_back() -> Iterator[None]:
    """Context in which a file that has just been written is read.

    Raises:
        OSError: it is no such file any more.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (zipfile.BadZipFile, struct.error, SafetensorError, KeyError, ValueError) as error:
        raise OSError(
            f"it cannot be read back ({type(error).__name__}: {error}), as after a fault of disk or memory"
        ) from error


def damaged_members(path: Path) -> list[str]:
    """Members of a zip archive that differ from their checksums; members without one are left out.

    Raises:
        OSError, zipfile.BadZipFile, struct.error: the file cannot be read, or is no zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if m.CRC and m.compress_type == zipfile.ZIP_STORED]
    with open(path, "rb") as file:
        begins = [_data_begin(file, m) for m in members]

    def differs(index: int) -> bool:
        return _of_part(path, begins[index], members[index].file_size) != members[index].CRC

    return [m.filename for m, wrong in zip(members, in_threads(differs, range(len(members)))) if wrong]


def with_checksums(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a safetensors file together with the checksums of its tensors and of the rest of it.

    Args:
        tensors: on the CPU.
    """
    checksums = in_threads(_of_tensor, tensors.values())
    sums = {
        "metadata": checksum_text(_of_metadata(metadata)),
        "tensors": {key: checksum_text(value) for key, value in zip(tensors, checksums)},
    }
    return {**metadata, ALGORITHM_KEY: _ALGORITHM, CHECKSUMS_KEY: json.dumps(sums)}


def damaged_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[str]:
    """Tensors of a safetensors file, or "metadata", that differ from its checksums; empty if it has none."""
    if ALGORITHM_KEY not in metadata and CHECKSUMS_KEY not in metadata:
        return []
    try:
        entry = parse_json_object(metadata[CHECKSUMS_KEY], source="checksums")
        expected, of_metadata = dict(entry["tensors"]), str(entry["metadata"])
    except (ValueError, KeyError, TypeError):
        return ["metadata"]
    checksums = dict(zip(tensors, in_threads(_of_tensor, tensors.values())))
    wrong = [
        k
        for k in sorted({*expected, *checksums})
        if k not in checksums or checksum_text(checksums[k]) != expected.get(k)
    ]
    intact = (
        metadata.get(ALGORITHM_KEY) == _ALGORITHM and checksum_text(_of_metadata(metadata)) == of_metadata
    )
    return wrong if intact else [*wrong, "metadata"]


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU: of their names, types, shapes and values, in whatever file they lie."""
    keys = sorted(tensors)
    digests = in_threads(lambda key: tensor_digest(tensors[key]), keys)
    whole = hashlib.sha256()
    for key, digest in zip(keys, digests):
        whole.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)} {digest}\n".encode())
    return whole.hexdigest()


def file_checksum(path: Path) -> str:
    """Checksum of the bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    return checksum_text(_of_part(path, 0, path.stat().st_size))


def stored_checksum(path: Path) -> str:
    """Checksum of the bytes of a file as they are on the disk, where the system can tell.

    Raises:
        OSError: it cannot be read.
    """
    _from_the_disk(path)
    return file_checksum(path)


@contextmanager
def _without_torch_checksums() -> Iterator[None]:
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(computed)


def _data_begin(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Offset of the bytes of a member, which follow its header, name and extra field."""
    file.seek(member.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return int(member.header_offset + 30 + name + extra)


def _write_checksum(
    file: BinaryIO, member: zipfile.ZipInfo, directory: int, data_end: int, checksum: int
) -> int:
    """Write a member's checksum at both of its places; returns the offset of the directory's next entry.

    Args:
        directory: offset of the member's entry in the central directory.
        data_end: offset at which the member's bytes end.
    """
    value = struct.pack("<I", checksum)
    if member.flag_bits & 8:  # the checksum follows the bytes, after an optional signature
        file.seek(data_end)
        file.seek(data_end + (4 if file.read(4) == b"PK\x07\x08" else 0))
    else:
        file.seek(member.header_offset + 14)
    file.write(value)
    file.seek(directory + 16)
    file.write(value)
    file.seek(directory + 28)
    return int(directory + 46 + sum(struct.unpack("<HHH", file.read(6))))


def _of_part(path: Path, begin: int, size: int) -> int:
    """Checksum of a part of a file. It is read, not memory-mapped, so that a failing disk raises an error."""
    checksum = 0
    with open(path, "rb", buffering=0) as file:
        file.seek(begin)
        buffer = memoryview(bytearray(min(_BLOCK, size)))
        while size > 0 and (count := file.readinto(buffer[: min(_BLOCK, size)])):
            checksum = zlib.crc32(buffer[:count], checksum)
            size -= count
    return checksum


def _from_the_disk(path: Path) -> None:
    """Let the next reading of a file come from the disk, not from memory, where the system can do that."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _storages(value: Any) -> Iterator[torch.UntypedStorage]:
    """The storages of the plain tensors in nested values."""
    if type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided:
        yield value.untyped_storage()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _storages(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _storages(item)


def _of_storage(storage: torch.UntypedStorage) -> int:
    return zlib.crc32(torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data)


def _of_tensor(tensor: Tensor) -> int:
    described = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(values.numpy().data, zlib.crc32(described))


def _of_metadata(metadata: Mapping[str, str]) -> int:
    described = {k: v for k, v in metadata.items() if k not in (ALGORITHM_KEY, CHECKSUMS_KEY)}
    return zlib.crc32(json.dumps(described, sort_keys=True).encode())


def checksum_text(checksum: int) -> str:
    """A checksum as files have it."""
    return f"{checksum:08x}"
