"""A hub that does not answer is asked once, for seconds, and what was downloaded before is used."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stable_audio import network
from stable_audio.conditioning import t5, tokenizers


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    network.hub_in_reach.cache_clear()
    yield
    network.hub_in_reach.cache_clear()


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_who_listens_is_in_reach(listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listening}")
    assert network.hub_in_reach()
    assert not network.offline("owner/name")
    assert network.offline(str(Path(__file__).parent))


def test_a_closed_port_and_a_silent_one_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        closed = bound.getsockname()[1]
    assert not network.takes_connections(f"http://127.0.0.1:{closed}")
    question_over = threading.Event()

    def silent(*_: object, **__: object) -> None:
        # The thread outlives its question, so it must not fail in the middle of another test.
        question_over.wait(30)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    started = time.monotonic()
    assert not network.takes_connections("https://example.org", seconds=0.05)
    assert time.monotonic() - started < 10
    question_over.set()


def test_the_proxy_is_what_has_to_answer(listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": f"http://127.0.0.1:{listening}"})
    assert network.hub_in_reach()


def test_offline_by_request_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(network, "takes_connections", lambda url: pytest.fail("it was asked"))
    assert not network.hub_in_reach()


def test_the_answer_is_kept_and_reaches_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(network, "takes_connections", lambda url: bool(asked.append(url)))

    class Transformers:
        class AutoTokenizer:
            @staticmethod
            def from_pretrained(name: str, **options: Any) -> Any:
                assert options == {"local_files_only": True}
                raise OSError("not in the cache")

    monkeypatch.setattr(tokenizers, "import_transformers", lambda: Transformers)
    for _ in range(2):
        with pytest.raises(OSError, match="no tokenizer at 'owner/name'"):
            tokenizers.load_tokenizer("owner/name")
    assert len(asked) == 1


def test_weights_are_asked_for_by_the_folder_of_their_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / ("a" * 40)
    for folder in (snapshot, snapshot / "part"):
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    local = {"local_files_only": True}
    assert network.transformers_arguments("owner/name") == (str(snapshot), local)
    assert network.transformers_arguments("owner/name", subfolder="part") == (str(snapshot / "part"), local)
    options = {**local, "revision": "v2", "subfolder": "part"}
    there = network.transformers_arguments("owner/name", revision="v2", subfolder="part")
    assert there == ("owner/name", options)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert network.transformers_arguments("owner/name") == ("owner/name", local)


def test_weights_are_asked_for_by_name_where_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "offline", lambda name: False)
    monkeypatch.setattr(
        network, "downloaded_file", lambda *_, **__: pytest.fail("an old download is looked for")
    )
    options = {"local_files_only": False, "revision": "v2"}
    assert network.transformers_arguments("owner/name", revision="v2") == ("owner/name", options)


TRANSFORMERS_TEXT = (
    "We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection."
)


def test_a_missing_download_is_explained_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = OSError(TRANSFORMERS_TEXT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reason = network.load_failure("owner/name", error)
    assert reason == "it was not downloaded before, and the Hugging Face hub cannot be reached"
    assert network.load_failure(str(tmp_path), error) == TRANSFORMERS_TEXT.splitlines()[0].rstrip(".")


def test_a_t5_encoder_without_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Transformers:
        class T5EncoderModel:
            @staticmethod
            def from_pretrained(name: str, **options: Any) -> Any:
                raise OSError(TRANSFORMERS_TEXT)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(t5, "import_transformers", lambda: Transformers)
    with pytest.raises(OSError, match="t5_model_name 't5-base' cannot be loaded: it was not") as caught:
        t5.T5Conditioner(output_dim=8).encoder("cpu")
    assert "\n" not in str(caught.value)
    assert "huggingface.co" not in str(caught.value)
