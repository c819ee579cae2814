"""Names on the hub, told from paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from stable_audio.stored.hub_names import HubName, how_to_write, name_of_cached, parse


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owner/name", HubName("owner/name")),
        ("hf://owner/name", HubName("owner/name")),
        (str(Path("hf://owner/name")), HubName("owner/name")),
        ("hf:/owner/name@v1", HubName("owner/name", "v1")),
        ("owner/my.model-1.0@v1", HubName("owner/my.model-1.0", "v1")),
        ("owner/name@refs/pr/3", HubName("owner/name", "refs/pr/3")),
        ("owner/name@some/branch", HubName("owner/name", "some/branch")),
        ("owner/name/base_model.ckpt", HubName("owner/name", None, "base_model.ckpt")),
        ("owner/name@v1/a/b.safetensors", HubName("owner/name", "v1", "a/b.safetensors")),
        ("owner/name@refs/pr/3/a.ckpt", HubName("owner/name", "refs/pr/3", "a.ckpt")),
        ("owner/name@some%2Fbranch/a.ckpt", HubName("owner/name", "some/branch", "a.ckpt")),
        ("owner/name@v1.ckpt", HubName("owner/name", "v1.ckpt")),
    ],
)
def test_names(text: str, name: HubName) -> None:
    assert parse(text) == name


@pytest.mark.parametrize(
    "text",
    ["last.ckpt", "/owner/name", "./owner/name", "../owner/name", "~/owner/name", "owner/name/folder"]
    + ["owner/", "owner/name@", "owner/name@v 1", "a/b/../c.ckpt", "a/b//c.ckpt", "owner/name@v1@v2", ""],
)
def test_paths(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("hf:owner/name", "write hf://owner/name"),
        ("HF://owner/name", "write hf://owner/name"),
        ("hf://owner/name/", "write hf://owner/name"),
        ("https://huggingface.co/owner/name", "write hf://owner/name"),
        (str(Path("https://huggingface.co/owner/name/")), "write hf://owner/name"),
        ("https://hf.co/owner/name/tree/v1", "write hf://owner/name@v1"),
        ("https://huggingface.co/owner/name/blob/main/a/b.ckpt", "write hf://owner/name@main/a/b.ckpt"),
        ("hf://owner", "a name on the hub is hf://owner/name, and"),
        ("hf:", "a name on the hub is hf://owner/name, and"),
        ("hf://owner/name/folder", "a name on the hub is hf://owner/name, and"),
        ("hf:/owner/name", None),
        ("runs/first", None),
        ("runs/first/", None),  # a folder that is not there
        ("runs/first/last.txt", None),
        ("last.ckpt", None),
        ("/runs/first/", None),
        ("../first/", None),
        ("", None),
    ],
)
def test_what_is_meant_as_a_name_is_told_how_to_write_it(text: str, advice: str | None) -> None:
    told = how_to_write(text)
    assert told == advice if advice is None else (told or "").startswith(advice)


def test_the_text_of_a_name_is_read_as_the_same_name() -> None:
    for text in ("owner/name", "owner/name@v1", "owner/name@v1/a/b.ckpt", "owner/name/b.ckpt"):
        assert str(parse(text)) == text


def test_files_of_the_cache_have_names() -> None:
    path = Path("/home/me/.cache/huggingface/hub/models--owner--my-name/snapshots/0123abc/sub/model.ckpt")
    assert name_of_cached(path) == HubName("owner/my-name", "0123abc", "sub/model.ckpt")
    assert parse(str(name_of_cached(path))) == name_of_cached(path)
    assert name_of_cached(Path("/runs/models/last.ckpt")) is None
