"""The page of demos and the page of runs in a real browser, used as a person uses them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stable_audio.audio.demo_page import DemoStep, write_index, write_step_page
from stable_audio.audio.demo_page.clips import save_clip
from stable_audio.interface.watch.server import open_server
from tests.interface.browser import browser_page, fits, unnamed, until

pytestmark = pytest.mark.slow

ROWS = ("a bell", "</script><img src=x onerror=alert(1)>")
PAINTED = """canvas => {
  const d = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(d.buffer)).size > 2; }"""


def _demos(run: Path, steps: tuple[int, ...] = (10, 20, 30)) -> Path:
    for step in steps:
        folder = run / "demos" / f"step_{step:08d}"
        clips = []
        for number, row in enumerate(ROWS):
            for scale in (1, 3):
                sound = (step / 20) * torch.sin(torch.arange(16000) * 0.05 * (1 + number))[None]
                path = folder / f"demo_{number}_cfg_{scale}.wav"
                clips.append(save_clip(path, sound, 8000, row=row, column=f"CFG {scale}"))
        kept = folder / "inpaint.wav"
        clips.append(save_clip(kept, torch.zeros(1, 800), 8000, row=f"made anew {step}", column="original"))
        write_step_page(folder, DemoStep(step=step, clips=clips))
    write_index(run / "demos")
    return run / "demos" / "index.html"


def test_demos_from_disk(tmp_path: Path) -> None:
    index = _demos(tmp_path / "first")
    with browser_page() as page:
        page.goto(index.as_uri())
        clips = page.locator(".clip")
        assert clips.count() == 5
        assert page.locator("#at").text_content() == "step 30"
        assert page.locator(".bad").count() == 4  # all but the silence are too loud at the last step
        assert page.locator("tbody th").all_text_contents() == [*ROWS, "made anew 30"]
        assert (
            page.locator(".picture img").first.evaluate("i => i.decode().then(() => i.naturalWidth)") == 320
        )
        clips.nth(1).click()
        until(page, "!document.getElementById('player').paused")
        assert page.locator("#now").text_content() == "a bell, CFG 3, step 30"
        # What plays goes on at the same place when the step changes.
        page.evaluate("document.getElementById('player').currentTime = 1")
        page.keyboard.press(",")
        until(page, "document.getElementById('player').currentTime >= 1")
        assert page.locator("#now").text_content() == "a bell, CFG 3, step 20"
        assert page.locator(".bad").count() == 0
        assert "#step=20" in page.url
        page.keyboard.press("ArrowDown")
        assert page.locator("#now").text_content() == f"{ROWS[1]}, CFG 3, step 20"
        page.keyboard.press(" ")
        until(page, "document.getElementById('player').paused")
        page.keyboard.press("End")
        assert page.locator("#at").text_content() == "step 30"
        page.keyboard.press("v")
        assert page.locator("thead th").all_text_contents() == ["", "step 10", "step 20", "step 30"]
        assert page.locator("tbody tr").count() == 5
        page.keyboard.press("/")
        page.keyboard.type("bell")
        assert page.locator("tbody tr").count() == 2
        page.keyboard.press("Escape")
        page.keyboard.press("e")
        clips.nth(0).click()  # the quietest step is 10, a sixth of the loudest
        assert page.locator("#player").evaluate("p => p.volume") == pytest.approx(1.0)
        clips.nth(2).click()
        assert page.locator("#player").evaluate("p => p.volume") < 0.6
        assert unnamed(page) == []
        page.keyboard.press("?")
        assert page.locator("#keys").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_demos_on_a_phone(scheme: str, tmp_path: Path) -> None:
    index = _demos(tmp_path / "first")
    with browser_page(width=360, height=640, scheme=scheme) as page:
        for address in (index.as_uri(), f"{index.as_uri()}#step=10&all"):
            page.goto(address)
            page.reload()
            assert fits(page)
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(255, 255, 255)") is (scheme == "light")


def _run(folder: Path, *, rate: float, end: dict[str, object] | None) -> Path:
    folder.mkdir(parents=True)
    columns = [
        "train/loss",
        "model/loss_all_0.0",
        "model/loss_all_0.1",
        "train/lr",
        "new/kind",
        "val/avg_loss",
    ]
    lines = [
        f"{n},{1 / n:.4g},{n % 7},{2 / n:.4g},{rate},{n},{1 if n % 20 == 0 else ''}" for n in range(1, 61)
    ]
    (folder / "metrics.csv").write_text("\n".join([",".join(["step", *columns]), *lines, ""]))
    (folder / "model.json").write_text(json.dumps({"training": {"learning_rate": rate}}))
    incident = {"time": "now", "kind": "skipped", "step": 7, "text": "<b>bad</b>"}
    record = {"starts": [{"options": {"max_steps": 100}, "ended": end}], "incidents": [incident]}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    with open_server([folder]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def test_runs_are_watched(tmp_path: Path) -> None:
    _run(tmp_path / "first", rate=1e-3, end={"step": 60, "error": "ValueError: <i>no</i>"})
    _demos(tmp_path / "first", (10, 20))
    second = _run(tmp_path / "second <b>", rate=2e-3, end=None)
    with _served(tmp_path) as url, browser_page(allow=(url,)) as page:
        page.goto(url)
        page.wait_for_selector("#runs tr:nth-child(2)")
        row = page.locator("#runs tr", has_text="second <b>")
        assert "running" in row.text_content()
        assert "60 / 100" in row.text_content()
        assert "failed" in page.locator("#runs tr", has_text="first").text_content()
        page.locator("#runs tr", has_text="first").click()
        until(page, "document.querySelectorAll('#charts figure').length >= 4")
        assert page.locator("#told").text_content() == "failed ValueError: <i>no</i>"
        titles = page.locator("#charts figcaption").all_text_contents()
        assert titles == ["loss", "loss by noise level (sigma)", "validation", "learning rate"]
        assert all(page.locator("#charts canvas").nth(n).evaluate(PAINTED) for n in range(4))
        assert "new/kind" in page.locator("#others").text_content()
        heat = page.locator("figure.heat")
        heat.locator("canvas").hover(position={"x": 300, "y": 20})
        assert "sigma 0.1" in heat.locator("output").text_content()
        # Two runs in one chart.
        row.locator("input").check()
        until(page, "document.querySelectorAll('#charts figure:first-child .legend span').length === 2")
        page.keyboard.press("3")
        page.wait_for_selector("#differing tr")
        assert "0.001" in page.locator("#differing tr", has_text="learning_rate").text_content()
        page.keyboard.press("4")
        assert "<b>bad</b>" in page.locator("#befell").text_content()
        page.keyboard.press("2")
        demos = page.frame_locator("#demos iframe")
        demos.locator(".clip").nth(1).click()
        until(
            page, "!document.querySelector('#demos iframe').contentDocument.getElementById('player').paused"
        )
        assert demos.locator("thead th").all_text_contents() == ["", "step 10", "step 20"]
        # What the run adds is seen without a click.
        with open(second / "metrics.csv", "a") as file:
            file.write("61,0.5,1,1,0.001,5,\n")
        until(page, "document.getElementById('runs').textContent.includes('61 / 100')")
        page.locator("#filter").fill("failed")
        assert page.locator("#runs tr").count() == 1
        assert unnamed(page) == []
        assert "#run=first&tab=demos" in page.url


def test_runs_on_a_phone_in_the_dark(tmp_path: Path) -> None:
    _run(tmp_path / ("a_long_name_" * 8), rate=1e-3, end=None)
    with (
        _served(tmp_path) as url,
        browser_page(width=360, height=640, scheme="dark", allow=(url,)) as page,
    ):
        page.goto(url)
        until(page, "document.querySelectorAll('#charts figure').length >= 4")
        assert fits(page)
        for key in "234":
            page.keyboard.press(key)
            assert fits(page)
