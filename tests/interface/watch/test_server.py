"""The server of the page: what it answers, and to whom."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from stable_audio.audio.demo_page import DemoStep, write_step_page
from stable_audio.audio.demo_page.clips import save_clip
from stable_audio.audio.io import read_audio
from stable_audio.audio.sound_picture import sound_picture
from stable_audio.cli import main
from stable_audio.interface.hosts import LOOPBACK
from stable_audio.interface.watch.library import Library
from stable_audio.interface.watch.server import WatchServer
from stable_audio.interface.watch.sounds import part_of

NAME = "a <b>&?#%"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run = folder / NAME
    step = run / "demos" / "step_00000002"
    step.mkdir(parents=True)
    clip = save_clip(step / "a.wav", torch.rand(1, 800) - 0.5, 8000, row="</script>", column="CFG 1")
    write_step_page(step, DemoStep(step=2, clips=[clip]))
    (run / "metrics.csv").write_text("step,train/loss\n1,2\n")
    (run / "run.json").write_text('{"starts": [{"nan": NaN}]}')
    (run / "secret.wav").write_text("secret")
    (step / "notes.txt").write_text("notes")
    (step / "link.wav").symlink_to(run / "secret.wav")
    return folder


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[WatchServer]:
    with WatchServer(Library([runs])) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.library.refresh()
        yield server
        server.shutdown()
        thread.join()


def _get(
    server: WatchServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def test_a_run_whose_name_is_not_utf8(tmp_path: Path) -> None:
    run = tmp_path / os.fsdecode(b"f\xe9") / os.fsdecode(b"r\xe9")
    write_step_page(run / "demos" / "step_00000002", DemoStep(step=2, clips=[]))
    (run / "metrics.csv").write_text("step,train/loss\n1,2\n")
    with WatchServer(Library([run.parent])) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        listed = json.loads(_get(server, "/api/runs")[2])
        status, _, page = _get(server, f"/demos/{quote(listed['runs'][0]['name'])}/demos/")
        server.shutdown()
        thread.join()
    assert listed["folders"] == [f"{tmp_path}/f\\udce9"]
    assert listed["runs"][0]["name"] == "r\\udce9"
    assert (status, "<title>Demos of r\\udce9</title>" in page.decode()) == (200, True)


@pytest.mark.parametrize("path", ["/", "/watch.css", "/watch.js", "/charts.js"])
def test_the_page_asks_nobody_else(path: str, server: WatchServer) -> None:
    status, headers, content = _get(server, path)
    assert status == 200
    assert "://" not in content.decode()
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"unsafe" not in headers["Content-Security-Policy"].encode()
    for word in (b"innerHTML", b"outerHTML", b"insertAdjacent", b"document.write", b"eval("):
        assert word not in content


def test_runs_and_one_run(server: WatchServer) -> None:
    status, _, content = _get(server, "/api/runs")
    (told,) = json.loads(content)["runs"]
    assert (status, told["name"], told["step"]) == (200, NAME, 1)
    _, _, content = _get(server, f"/api/run?name={quote(NAME)}")

    def refused(value: str) -> float:
        raise AssertionError(f"{value} is not JSON")

    assert json.loads(content, parse_constant=refused)["start"] == {"nan": "nan"}
    assert json.loads(_get(server, f"/api/demos?name={quote(NAME)}")[2]) == {"steps": [2]}
    one = quote(NAME)
    assert json.loads(_get(server, f"/api/differences?first={one}&second={one}")[2]) == {"differences": []}


def test_demos_and_their_files(server: WatchServer, runs: Path) -> None:
    base = f"/demos/{quote(NAME)}/demos/"
    status, headers, page = _get(server, base)
    assert (status, page.count(b"</script>")) == (200, 2)
    assert "connect-src" not in headers["Content-Security-Policy"]
    sound = (runs / NAME / "demos" / "step_00000002" / "a.wav").read_bytes()
    status, headers, content = _get(server, base + "step_00000002/a.wav")
    assert (status, content, headers["Content-Type"]) == (200, sound, "audio/wav")
    status, headers, content = _get(server, base + "step_00000002/a.wav", Range="bytes=10-19")
    assert (status, content) == (206, sound[10:20])
    assert headers["Content-Range"] == f"bytes 10-19/{len(sound)}"
    status, headers, content = _get(server, base + "step_00000002/a.wav", Range="bytes=999999-")
    assert (status, content, headers["Content-Range"]) == (416, b"", f"bytes */{len(sound)}")
    status, headers, content = _get(server, base + "step_00000002/a.wav", "HEAD")
    assert (status, content, headers["Content-Length"]) == (200, b"", str(len(sound)))
    assert _get(server, base + "step_00000002/a.png")[2].startswith(b"\x89PNG")


def test_demos_of_earlier_versions_have_pictures(server: WatchServer, runs: Path) -> None:
    base = f"/demos/{quote(NAME)}/demos/"
    step = runs / NAME / "demos" / "step_00000002"
    content = json.loads((step / "demos.json").read_text())
    try:
        earlier = [{k: c[k] for k in ("file", "row", "column", "peak", "clipped")} for c in content["clips"]]
        (step / "demos.json").write_text(json.dumps({"step": 2, "clips": earlier}))
        assert b"step_00000002/a.wav.drawn.png" in _get(server, base)[2]
    finally:
        (step / "demos.json").write_text(json.dumps(content))
    (step / "broken.wav").write_bytes(b"RIFF")
    expected = sound_picture(*read_audio(step / "a.wav"))
    assert _get(server, base + "step_00000002/a.wav.drawn.png")[2] == expected
    for other in ("broken.wav", "none.wav", "link.wav", "../../secret.wav"):
        assert _get(server, f"{base}step_00000002/{other}.drawn.png")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/api/run?name=none",
        "/api/run",
        "/demos/none/demos/",
        "/demos/",
        "/../../etc/passwd",
        *(
            f"/demos/{quote(NAME)}/demos/{rest}"
            for rest in (
                "step_00000002/notes.txt",
                "step_00000002/demos.json",
                "step_00000002/link.wav",
                "step_00000002",
                "../secret.wav",
                "%2e%2e/secret.wav",
                "..%2fsecret.wav",
                "%2fetc/passwd",
                "step_00000002/%00.wav",
                "step_00000002/" + "x" * 300 + ".wav",
            )
        ),
    ],
)
def test_nothing_else_is_handed_out(path: str, server: WatchServer) -> None:
    status, _, content = _get(server, path)
    assert status == 404
    assert b"secret" not in content


def test_names_of_other_machines_are_refused(server: WatchServer) -> None:
    for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.test", 403)):
        assert _get(server, "/", Host=host)[0] == status
    assert _get(server, "/", Host="[")[0] == 403
    assert _get(server, "/", "POST")[0] == 501


@pytest.mark.parametrize(("host", "names"), [("127.0.0.2", (*LOOPBACK, "127.0.0.2")), ("0.0.0.0", None)])
def test_any_address_of_this_machine_alone_has_names(
    host: str, names: tuple[str, ...] | None, runs: Path
) -> None:
    with WatchServer(Library([runs]), host=host) as server:
        assert server.names == names


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (None, (0, 10)),
        ("bytes=0-", (0, 10)),
        ("bytes=2-4", (2, 5)),
        ("bytes=2-40", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=4-2", None),
        ("bytes=10-", None),
        ("bytes=-0", None),
        ("bytes=-", (0, 10)),
        ("bytes=0-1,3-4", (0, 10)),
        ("lines=1-2", (0, 10)),
        ("bytes=" + "9" * 5000 + "-", (0, 10)),
    ],
)
def test_ranges(asked: str | None, part: tuple[int, int] | None) -> None:
    told = part_of(10, asked)
    assert (told and (told.begin, told.end)) == part


def test_the_command_names_what_is_wrong(
    tmp_path: Path, server: WatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'} is no folder" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--port", str(server.server_address[1])]) == 2
    assert "choose another with --host or --port" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--port", "70000"]) == 2
    assert "70000" in capsys.readouterr().err
