"""The page as a person uses it, in a real browser."""

from __future__ import annotations

import json
import re
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.interface.browser import browser_page, chromium, fits, unnamed, until
from tests.interface.page.conftest import RATE
from tests.interface.service.running import RunningService

pytestmark = pytest.mark.slow

DONE = "article[data-state=done]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened_browser:
        yield opened_browser


@contextmanager
def opened(ui: RunningService, browser: Any, **options: Any) -> Iterator[Any]:
    """The page, once the model can be used, with an empty history."""
    for job in httpx.get(f"{ui.url}/v1/jobs?limit=500").json()["jobs"]:
        httpx.delete(f"{ui.url}/v1/jobs/{job['id']}")
    with browser_page(
        browser=browser, width=options.pop("width", 1200), allow=(ui.url, "blob:"), **options
    ) as page:
        page.goto(ui.url)
        page.wait_for_selector("#generate:not([disabled])")
        yield page


def generate(page: Any, count: int = 1, *, steps: int = 3, prompt: str = "bell") -> None:
    """Generate clips with the form and wait until so many are shown."""
    before = page.locator(DONE).count()
    page.get_by_label("Prompt").first.select_option(prompt)
    page.fill("#steps", str(steps))
    page.fill("#count", str(count))
    page.click("#generate")
    page.wait_for_selector(f":nth-match({DONE}, {before + count})")


def jobs(ui: RunningService) -> list[dict[str, Any]]:
    """The history of the service, the newest first."""
    told: list[dict[str, Any]] = httpx.get(f"{ui.url}/v1/jobs").json()["jobs"]
    return told


def sound_file(path: Path, seconds: float = 0.5) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        tone = np.sin(np.arange(int(seconds * RATE)) * 0.3) * 20000
        file.writeframes(tone.astype("<i2").tobytes())
    return path


def samples(content: bytes) -> Any:
    return np.frombuffer(content[44:], "<i2").astype(int)


def test_it_generates_what_the_form_says_and_shows_and_plays_it(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser) as page:
        assert page.locator("h1").text_content() == "<b>Tiny</b> & co"
        assert page.locator("#empty").is_visible()
        page.check("#lock")
        page.fill("#seed", "70")
        page.fill("#seconds", "0.4")
        page.select_option("#sampler", "dpmpp")
        generate(page, 2)
        second, first = jobs(ui)
        assert (first["request"]["seed"], second["request"]["seed"]) == (70, 71)
        assert first["request"]["conditioning"] == {"prompt": "bell"}
        assert (first["request"]["sampler"], first["request"]["seconds"]) == ("dpmpp", 0.4)
        until(page, "document.querySelector('article img').naturalWidth === 512")
        page.click("article button.play >> nth=0")
        until(page, "/^0\\.[1-4] \\/ 0\\.4 s$/.test(document.getElementById('time').textContent)")
        assert page.locator("#found").text_content() == "2 clips"
        assert not unnamed(page)


def test_a_long_generation_shows_its_steps_and_can_be_stopped(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser) as page:
        page.fill("#steps", "1000")
        page.click("#generate")
        page.wait_for_selector("text=/step \\d+ of 1000, .* left/")
        page.click("#stop")
        page.wait_for_selector("article[data-state=cancelled]")
        page.click("#generate")
        page.wait_for_selector("text=/step \\d+ of 1000, .* left/")
        page.locator("article").first.focus()
        page.keyboard.press(".")
        page.wait_for_selector(":nth-match(article[data-state=cancelled], 2)")
        until(page, "document.getElementById('stop').disabled")
        assert jobs(ui)[0]["state"] == "cancelled"
        generate(page)  # and the device is free


def test_marked_parts_of_an_upload_are_made_anew(ui: RunningService, browser: Any, tmp_path: Path) -> None:
    with opened(ui, browser) as page:
        page.click("#sound-details summary")
        page.set_input_files("#sound input[type=file]", sound_file(tmp_path / "take <i>1.wav"))
        page.wait_for_selector("#sound canvas")
        assert "take <i>1.wav, 0.50 s" in page.locator("#sound .picker").text_content()
        page.select_option("#use", "parts")
        page.click("#generate")
        assert "Mark the parts" in page.locator("#sound .note").text_content()
        canvas = page.locator("#sound canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        for start, end in ((0.1, 0.3), (0.8, 0.6)):  # also from right to left
            page.mouse.move(box["x"] + start * box["width"], box["y"] + 20)
            page.mouse.down()
            page.mouse.move(box["x"] + end * box["width"], box["y"] + 25, steps=3)
            page.mouse.up()
        page.get_by_label("part 1, begin in seconds").fill("0.1")
        page.get_by_label("part 1, end in seconds").click()
        generate(page)
        request = jobs(ui)[0]["request"]
        (a, b), (c, d) = request["inpaint"]
        assert a == 0.1
        assert (b, c, d) == pytest.approx((0.15, 0.3, 0.4), abs=0.005)
        sound = samples(httpx.get(f"{ui.url}/v1/jobs/{jobs(ui)[0]['id']}/audio").content)
        difference = abs(sound[: RATE // 2] - samples((tmp_path / "take <i>1.wav").read_bytes()))
        assert difference[int(0.17 * RATE) : int(0.28 * RATE)].max() <= 1
        assert difference[int(0.11 * RATE) : int(0.14 * RATE)].max() > 100


def test_parts_are_marked_with_the_keyboard(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser) as page:
        generate(page)
        page.get_by_role("button", name="Use as input").click()
        page.wait_for_selector("#sound canvas")
        until(page, "document.querySelector('#sound canvas').getAttribute('aria-valuemax') === '0.64'")
        page.locator("#sound canvas").focus()
        for key in ("Home", *["Shift+ArrowRight"] * 20, "Enter", *["Shift+ArrowRight"] * 10, "Enter"):
            page.keyboard.press(key)
        assert page.get_by_label("part 1, begin in seconds").input_value() == "0.2"
        assert page.get_by_label("part 1, end in seconds").input_value() == "0.3"
        page.keyboard.press("Delete")
        assert page.locator(".part").count() == 0


def test_continue_vary_and_settings_start_from_a_clip(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser) as page:
        generate(page)
        first = jobs(ui)[0]
        page.get_by_role("button", name="Vary").click()
        page.wait_for_selector(f":nth-match({DONE}, 2)")
        varied = jobs(ui)[0]["request"]
        assert (varied["seed"], varied["mix"]) == (first["request"]["seed"], 0.3)
        page.get_by_role("button", name="Continue").last.click()
        page.wait_for_selector("#extend")
        page.fill("#extend", "0.1")
        generate(page, prompt="wind")
        extended = jobs(ui)[0]
        assert (extended["request"]["inpaint_audio"], extended["request"]["extend"]) == (first["id"], 0.1)
        assert extended["request"]["window_seconds"] == 0.64
        assert extended["result"]["samples"] == int(0.74 * RATE)
        page.get_by_role("button", name="Settings").last.click()
        until(page, f"document.getElementById('seed').value === '{first['request']['seed']}'")
        assert page.get_by_label("Prompt").first.input_value() == "bell"
        assert page.locator("#in-seconds").is_visible()


def test_controls_follow_from_the_model_that_is_chosen(
    ui: RunningService, browser: Any, tmp_path: Path
) -> None:
    with opened(ui, browser, refused=True) as page:
        page.select_option("#model", "other")
        assert page.locator("#conditioners label").all_text_contents() == [
            "style",
            "beats",
            "bright",
            "style",
        ]
        page.get_by_label("bright").fill("1.5")
        page.get_by_label("beats", exact=True).fill("3")
        page.fill("#steps", "2")
        page.click("#generate")
        page.wait_for_selector("[data-name=bright] > .note")
        page.get_by_label("bright").fill("0.5")
        page.click("#generate")
        page.wait_for_selector("[data-name=ref] > .note:has-text('The model needs this.')")
        for name, seconds in (("ref", 0.3), ("stems", 0.2)):
            file = sound_file(tmp_path / f"{name}.wav", seconds)
            page.locator(f"[data-name={name}] input[type=file]").last.set_input_files(file)
            page.wait_for_selector(f"[data-name={name}] >> text=/{name}.wav, 0/")
        page.click("#conditioners summary")
        page.get_by_label("style").nth(1).select_option("hard")
        page.click("#generate")
        page.wait_for_selector(DONE)
        request = jobs(ui)[0]["request"]
        assert request["model"] == "other"
        sent = {one["name"]: one["id"] for one in httpx.get(f"{ui.url}/v1/uploads").json()["uploads"]}
        sounds = {"ref": sent["ref.wav"], "stems": {"bass": sent["stems.wav"]}}
        assert request["conditioning"] == {"style": "<i>soft</i>", "beats": 3, "bright": 0.5, **sounds}
        assert request["negative_conditioning"] == {"style": "hard"}
        assert page.locator("article h2").text_content() == "<i>soft</i>"
        assert page.locator("#adapters-details").is_hidden()
        page.check("#this-model")
        page.select_option("#model", "tiny")
        page.wait_for_selector("text=Nothing in the history is like that.")


def test_adapters_bars_and_loops_are_asked_for(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser) as page:
        page.click("#adapters-details summary")
        page.get_by_label("Strength of pad").fill("0.5")
        assert page.get_by_label("pad", exact=True).is_checked()
        page.check("#by-bars")
        page.fill("#bars", "1")
        page.fill("#bpm", "240")
        page.check("#loop-clip")
        assert "1 s are longer than the model's 0.64 s" in page.locator("#windows-text").text_content()
        generate(page)
        job = jobs(ui)[0]
        assert job["request"]["adapters"] == [{"name": "pad", "strength": 0.5}]
        asked = {key: job["request"][key] for key in ("bars", "bpm", "beats", "loop", "window_seconds")}
        assert asked == {"bars": 1, "bpm": 240, "beats": 4, "loop": True, "window_seconds": 0.64}
        assert job["result"]["samples"] == RATE
        assert "pad 0.5" in page.locator("article .facts").text_content()


def test_settings_give_the_same_sound_again(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser) as page:
        request = {
            "prompt": "wind",
            "negative_conditioning": {"prompt": "drum", "seconds_total": 3},
            "seed": 9,
            "steps": 2,
            "cfg_interval": [0.1, 0.9],
            "sampler": "dpmpp",
            "adapters": [{"name": "pad", "strength": 0.33, "interval": [0, 0.5]}],
            "seconds": 1,
            "window_seconds": 0.5,
            "job": True,
        }
        first = httpx.post(f"{ui.url}/v1/generate", json=request).json()
        page.reload()
        page.wait_for_selector(DONE)
        page.get_by_role("button", name="Settings").click()
        until(page, "document.getElementById('seed').value === '9'")
        page.click("#generate")
        page.wait_for_selector(f":nth-match({DONE}, 2)")
        assert jobs(ui)[0]["digest"] == first["digest"]
        page.fill("#steps", "3")
        page.click("#generate")
        page.wait_for_selector(f":nth-match({DONE}, 3)")
        assert jobs(ui)[0]["digest"] != first["digest"]


def test_clips_are_downloaded_with_their_recipe(ui: RunningService, browser: Any, tmp_path: Path) -> None:
    with opened(ui, browser) as page:
        generate(page)
        page.get_by_label("Format").select_option("flac")
        with page.expect_download() as load:
            page.get_by_role("button", name="Download").click()
        assert re.fullmatch(r"bell_[0-9a-f]{8}\.flac", load.value.suggested_filename)
        load.value.save_as(tmp_path / "clip.flac")
        assert (tmp_path / "clip.flac").read_bytes()[:4] == b"fLaC"
        page.get_by_role("button", name="Recipe").click()
        with page.expect_download() as load:
            page.get_by_role("button", name="Save").click()
        load.value.save_as(tmp_path / "recipe.json")
        recipe = json.loads((tmp_path / "recipe.json").read_text())
        assert recipe["recipe"]["seed"] == jobs(ui)[0]["request"]["seed"]


def test_the_history_is_searched_starred_kept_and_cleared(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser) as page:
        generate(page, prompt="bell")
        generate(page, prompt="wind")
        page.get_by_label("Star wind").click()
        page.get_by_label("Star wind").and_(page.locator("[aria-pressed=true]")).wait_for()
        page.reload()
        page.wait_for_selector(f":nth-match({DONE}, 2)")
        page.check("#starred")
        until(page, "document.querySelectorAll('article').length === 1")
        assert page.locator("article h2").text_content() == "wind"
        page.uncheck("#starred")
        page.fill("#search", "bell")
        until(page, "document.querySelector('article h2')?.textContent === 'bell'")
        page.get_by_role("button", name="Remove").click()
        page.wait_for_selector("text=Nothing in the history is like that.")
        assert [job["title"] for job in jobs(ui)] == ["wind"]


def test_mistakes_are_told_beside_their_controls(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser, refused=True) as page:
        page.click("#more-details summary")

        def told(name: str, part: str = "") -> None:
            """Generate, and find the mistake at a control."""
            page.click("#generate")
            page.wait_for_selector(f"[data-name={name}] > .note:has-text({json.dumps(part)})")
            assert page.locator(".note").count() == 1
            assert page.locator(f"[data-name={name}] [aria-invalid=true]").count() == 1
            assert page.locator("#problem").text_content()

        page.fill("#steps", "0")
        told("steps")  # by the browser
        page.fill("#steps", "3")
        page.fill("#other", '{"loudness": 5}')
        told("loudness", "from -70 to 0 dB, found 5")  # by the service
        page.fill("#other", '{"nope": 5}')
        told("other", "nope: unknown key; allowed")
        page.fill("#other", "[1")
        told("other", "This is no JSON")
        page.fill("#other", "")
        page.evaluate("document.getElementById('seconds').removeAttribute('max')")
        page.fill("#seconds", "601")
        told("seconds", "must be at most 600, found 601")
        assert jobs(ui) == []


def test_a_file_that_is_no_sound_is_refused_beside_its_control(
    ui: RunningService, browser: Any, tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    with opened(ui, browser, refused=True) as page:
        page.click("#sound-details summary")
        page.set_input_files("#sound input[type=file]", tmp_path / "text.wav")
        page.wait_for_selector("#sound .picker [role=alert]:not(:empty)")
        assert "text.wav: " in page.locator("#sound .picker [role=alert]").text_content()


def test_a_service_with_tokens_is_asked_with_the_one_that_is_typed(ui: RunningService, browser: Any) -> None:
    def guarded(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer open sesame":
            route.continue_()
        else:
            route.fulfill(status=401, json={"detail": "a bearer token is needed"})

    with browser_page(browser=browser, allow=(ui.url, "blob:"), refused=True) as page:
        page.route("**/v1/**", guarded)
        page.goto(ui.url)
        page.locator("#token-text").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        page.wait_for_selector("text=The service does not know this token.")
        page.locator("#token-text").fill("open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#generate:not([disabled])")
        generate(page)
        until(page, "document.querySelector('article img').naturalWidth === 512")


def test_all_of_it_by_keyboard_with_loop_and_a_and_b(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser) as page:
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.labels[0].textContent") == "prompt"
        page.keyboard.press("d")  # drum
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(DONE)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(f":nth-match({DONE}, 2)")
        for key in ("Escape", "l", "j", "a"):
            page.keyboard.press(key)
        until(page, "document.getElementById('play').textContent === '❚❚'")
        page.wait_for_timeout(900)  # longer than the clip: it loops
        assert page.locator("#play").text_content() == "❚❚"
        for key in ("j", "b", "s", "x"):
            page.keyboard.press(key)
        until(page, "document.getElementById('now').textContent.startsWith('A: drum')")
        page.keyboard.press(" ")
        until(page, "document.getElementById('play').textContent === '▶'")
        page.wait_for_selector("article .star.on")
        page.keyboard.press("?")
        assert page.locator("#keys").is_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "search"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(ui: RunningService, browser: Any, scheme: str) -> None:
    with opened(ui, browser, width=390, height=844, scheme=scheme) as page:
        page.click("#more-details summary")
        page.click("#sound-details summary")
        generate(page)
        assert fits(page)
        bright = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert bright == (scheme == "light")
        low = page.locator("#generate").bounding_box()
        assert low["y"] + low["height"] <= page.locator("footer").bounding_box()["y"] + 1


def test_a_phone_marks_parts_by_touch(ui: RunningService, browser: Any) -> None:
    with opened(ui, browser, width=390) as page:
        generate(page)
        page.get_by_role("button", name="Use as input").click()
        until(page, "document.querySelector('#sound canvas').getAttribute('aria-valuemax') === '0.64'")
        page.evaluate(
            """() => {
              const canvas = document.querySelector('#sound canvas'), box = canvas.getBoundingClientRect();
              canvas.setPointerCapture = () => {};
              for (const [type, at] of [['down', .25], ['move', .4], ['move', .5], ['up', .5]])
                canvas.dispatchEvent(new PointerEvent('pointer' + type, { pointerType: 'touch', pointerId: 7,
                  clientX: box.left + at * box.width, clientY: box.top + 9 }));
            }"""
        )
        assert page.get_by_label("part 1, begin in seconds").input_value() == "0.16"
        assert page.get_by_label("part 1, end in seconds").input_value() == "0.32"
