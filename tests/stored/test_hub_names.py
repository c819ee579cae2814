"""Names on the hub, told from paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from stable_audio.stored.hub_names import HubName, name_of_cached, parse


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owner/name", HubName("owner/name")),
        ("hf://owner/name", HubName("owner/name")),
        (str(Path("hf://owner/name")), HubName("owner/name")),
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


def test_the_text_of_a_name_is_read_as_the_same_name() -> None:
    for text in ("owner/name", "owner/name@v1", "owner/name@v1/a/b.ckpt", "owner/name/b.ckpt"):
        assert str(parse(text)) == text


def test_files_of_the_cache_have_names() -> None:
    path = Path("/home/me/.cache/huggingface/hub/models--owner--my-name/snapshots/0123abc/sub/model.ckpt")
    assert name_of_cached(path) == HubName("owner/my-name", "0123abc", "sub/model.ckpt")
    assert parse(str(name_of_cached(path))) == name_of_cached(path)
    assert name_of_cached(Path("/runs/models/last.ckpt")) is None
