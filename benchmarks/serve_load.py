"""The service under load: throughput with and without batches, and what 500 clients and faults do to it.

    make demo
    python benchmarks/serve_load.py --ckpt-path runs/demo/quickstart
    python benchmarks/serve_load.py

`throughput` lets clients ask again and again, of two services in turn, one of which renders every clip by
itself. Without a checkpoint it is a model of one small layer, whose time goes into calls rather than into
arithmetic, as it does on a GPU. `crowd` lets many clients ask at once while others leave, read slowly and
send garbage and the process that renders is killed; every sound is compared with that of
`stable-audio generate` for the same line.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
TIMEOUT = 1800.0


@dataclass
class Served:
    """A service in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]

    def renderer(self) -> int | None:
        """Number of the process that renders, the second that the service has started."""
        children: list[int] = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
        spawned = [n for n in sorted(children) if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]
        return spawned[-1] if len(spawned) > 1 else None


@contextmanager
def serving(args: argparse.Namespace, folder: Path, *flags: str) -> Iterator[Served]:
    """Start a service and wait until it is ready."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "stable_audio", "serve", f"model={args.ckpt_path}", "--port", "0"]
    command += ["--out", str(folder), "--device", args.device, *model_flags(args), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stderr=log, env=environment)
    try:
        yield Served(ready(process, folder / "log"), process)
    finally:
        process.terminate()
        process.wait(120)


def ready(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        text = log.read_text()
        if "listening on " in text:
            url = text.split("listening on ")[1].split(",")[0]
            if httpx.get(f"{url}/ready").status_code == 200:
                return url
        time.sleep(0.1)
    raise SystemExit(f"the service ended:\n{log.read_text()}")


def small_model(folder: Path) -> tuple[str, str]:
    """(weights, config) of a model that is not trained."""
    import torch
    from safetensors.torch import save_file

    from stable_audio.factory import create_model_from_config

    dit = {"io_channels": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "cond_token_dim": 8}
    prompt = {"id": "prompt", "type": "list", "config": {"options": ["a bell", "a drum"]}}
    config = {
        "model_type": "diffusion_cond",
        "sample_rate": 8000,
        "sample_size": 128,
        "audio_channels": 1,
        "model": {
            "io_channels": 16,
            "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 16}},
            "conditioning": {"cond_dim": 8, "configs": [prompt]},
            "diffusion": {
                "type": "dit",
                "diffusion_objective": "rectified_flow",
                "cross_attention_cond_ids": ["prompt"],
                "config": dit,
            },
        },
    }
    torch.manual_seed(0)
    state = create_model_from_config(config).state_dict()
    weights, file = folder / "small.safetensors", folder / "small.json"
    save_file({key: value.contiguous() for key, value in state.items()}, weights)
    file.write_text(json.dumps(config))
    return str(weights), str(file)


def model_flags(args: argparse.Namespace) -> list[str]:
    return [] if args.model_config is None else ["--model-config", args.model_config]


def lines(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The clips that clients ask for."""
    prompts = args.prompt or ["a bell"]
    return [
        {"conditioning": {"prompt": prompts[n % len(prompts)]}, "seed": n, "steps": args.steps}
        | ({"seconds": args.seconds} if args.seconds else {})
        for n in range(args.lines)
    ]


@dataclass
class Answers:
    """What clients got.

    Attributes:
        seconds: from each request that was served to its whole answer.
        sounds: (number of the line, samples in 16 bits) of each answer.
        again: requests that were refused for the moment and sent again.
        wrong: what was not as it should be.
    """

    seconds: list[float] = field(default_factory=list)
    sounds: list[tuple[int, np.ndarray]] = field(default_factory=list)
    again: int = 0
    wrong: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds, share)) if self.seconds else float("nan")


async def ask(client: httpx.AsyncClient, number: int, line: dict[str, Any], answers: Answers) -> None:
    """One request, repeated for as long as the service has no room."""
    started = time.perf_counter()
    while True:
        try:
            answer = await client.post("/v1/generate", json={**line, "deadline": TIMEOUT})
        except httpx.TransportError as error:
            answers.wrong.append(f"line {number}: no answer ({type(error).__name__})")
            return
        if answer.status_code not in (429, 503):
            break
        answers.again += 1
        await asyncio.sleep(float(answer.headers["retry-after"]) * random.uniform(0.5, 1))
    if answer.status_code != 200:
        answers.wrong.append(f"line {number}: {answer.status_code} {answer.text[:200]}")
        return
    answers.seconds.append(time.perf_counter() - started)
    if answer.headers["x-seed"] != str(line["seed"]) or len(answer.content) != int(
        answer.headers["content-length"]
    ):
        answers.wrong.append(f"line {number}: the answer is of another request, or cut")
    answers.sounds.append((number, soundfile.read(io.BytesIO(answer.content), dtype="int16")[0]))


def session(url: str, most: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits, trust_env=False)


async def steady(
    url: str, clients: int, rounds: int, asked: Sequence[dict[str, Any]]
) -> tuple[Answers, float]:
    """(answers, seconds) of clients that ask again as soon as they are answered."""
    answers = Answers()
    started = time.perf_counter()
    async with session(url, clients) as client:

        async def one(first: int) -> None:
            for turn in range(rounds):
                number = (first + turn * clients) % len(asked)
                await ask(client, number, asked[number], answers)

        await asyncio.gather(*map(one, range(clients)))
    return answers, time.perf_counter() - started


def throughput(args: argparse.Namespace, folder: Path) -> None:
    asked = lines(args)
    sizes = {"alone": 1, f"batches of {args.batch_size}": args.batch_size}
    rates: dict[str, list[float]] = {name: [] for name in sizes}
    answers: dict[str, Answers] = {name: Answers() for name in sizes}
    with ExitStack() as stack:
        services = {
            name: stack.enter_context(serving(args, folder / f"of-{size}", "--batch-size", str(size)))
            for name, size in sizes.items()
        }
        for turn in range(args.rounds + 1):
            for name, service in services.items():
                got, seconds = asyncio.run(steady(service.url, args.clients, args.requests, asked))
                if got.wrong:
                    raise SystemExit("\n".join(got.wrong))
                if turn:  # the first round warms up
                    rates[name].append(len(got.sounds) / seconds)
                    answers[name].seconds += got.seconds
    print(
        f"{args.clients} clients, {args.requests} requests each, {args.rounds} rounds in turn, "
        f"{args.steps} steps"
    )
    print("| | clips/s (each round) | p50 s | p99 s |\n|---|---|---|---|")
    for name, got in answers.items():
        each = ", ".join(f"{rate:.2f}" for rate in rates[name])
        print(f"| {name} | {each} | {got.percentile(50):.2f} | {got.percentile(99):.2f} |")
    alone, together = (statistics.median(rates[name]) for name in sizes)
    print(f"ratio of the medians: {together / alone:.2f}")


async def leave(client: httpx.AsyncClient, line: dict[str, Any]) -> None:
    """Ask, and close the connection before the answer."""
    with suppress(httpx.TimeoutException):
        await client.post("/v1/generate", json=line, timeout=random.uniform(0.01, 0.5))


async def read_slowly(url: str, number: int, line: dict[str, Any], answers: Answers) -> None:
    """Take the answer in small pieces."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    body = json.dumps({**line, "deadline": TIMEOUT}).encode()
    head = f"POST /v1/generate HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    received = b""
    while piece := await reader.read(1024):
        received += piece
        await asyncio.sleep(0.005)
    writer.close()
    told, _, sound = received.partition(b"\r\n\r\n")
    if told.startswith(b"HTTP/1.1 200"):
        answers.sounds.append((number, soundfile.read(io.BytesIO(sound), dtype="int16")[0]))
    elif not told.startswith((b"HTTP/1.1 429", b"HTTP/1.1 503")):
        answers.wrong.append(f"line {number}, read slowly: {told[:100]!r}")


async def send_garbage(url: str) -> None:
    """Bytes that are no request, or half of one."""
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    half = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
    writer.write(random.choice([os.urandom(2000), half, b"GET /" + b"x" * 5000]))
    await asyncio.sleep(random.uniform(0.1, 1))
    writer.close()


async def crowd_of(args: argparse.Namespace, service: Served, asked: Sequence[dict[str, Any]]) -> Answers:
    answers, slow = Answers(), Answers()

    async def kill_renderer() -> None:
        for _ in range(args.kills):
            await asyncio.sleep(args.kill_after)
            if (number := service.renderer()) is not None:
                os.kill(number, signal.SIGKILL)

    async with session(service.url, args.crowd + 100) as client:
        work: list[Any] = [kill_renderer()]
        for number in range(args.crowd):
            line = asked[number % len(asked)]
            work.append(ask(client, number % len(asked), line, answers))
            if number % 10 == 0:
                work.append(leave(client, line))
                work.append(read_slowly(service.url, number % len(asked), line, slow))
                work.append(send_garbage(service.url))
                work.append(client.post("/v1/generate", content=os.urandom(200)))
        random.shuffle(work)
        for result in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(result, BaseException):
                answers.wrong.append(repr(result))
        metrics = (await client.get("/metrics")).text
    answers.sounds += slow.sounds
    answers.wrong += slow.wrong
    print(
        "\n".join(
            t
            for t in metrics.splitlines()
            if t.startswith(("stable_audio_jobs_total", "stable_audio_process_ends_total"))
        )
    )
    return answers


def references(args: argparse.Namespace, folder: Path, asked: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """The sounds of `stable-audio generate`, one by one."""
    from stable_audio.cli import main

    file = folder / "lines.jsonl"
    file.write_text("".join(json.dumps({**line, "name": f"line{n}"}) + "\n" for n, line in enumerate(asked)))
    command = ["generate", "--ckpt-path", args.ckpt_path, *model_flags(args), "--prompts", str(file)]
    command += ["--out", str(folder / "expected"), "--name", "{name}", "--batch-size", "1"]
    if main([*command, "--device", args.device]):
        raise SystemExit("the references could not be rendered")
    return [soundfile.read(folder / "expected" / f"line{n}.wav", dtype="int16")[0] for n in range(len(asked))]


def crowd(args: argparse.Namespace, folder: Path) -> None:
    asked = lines(args)
    expected = references(args, folder, asked)
    flags = ["--batch-size", str(args.batch_size), "--queue", "400", "--client-queue", "400"]
    flags += ["--deadline", str(TIMEOUT)]
    with serving(args, folder / "crowd", *flags) as service:
        started = time.perf_counter()
        answers = asyncio.run(crowd_of(args, service, asked))
        seconds = time.perf_counter() - started
    differences = [Difference.of(sound, n, expected) for n, sound in answers.sounds]
    print(
        f"{args.crowd} clients at once, and {args.crowd // 10} each that leave, read slowly, send garbage "
        "of two kinds"
    )
    print(f"{len(answers.sounds)} sounds in {seconds:.1f} s, sent again after 429 or 503: {answers.again}")
    print(f"p50 {answers.percentile(50):.2f} s, p99 {answers.percentile(99):.2f} s")
    steps = [d.steps for d in differences]
    print(
        f"equal to `stable-audio generate` in every sample: {steps.count(0)}; up to one step of 16 bits: "
        f"{steps.count(1)}; more, as sums of batches are rounded otherwise: {sum(s > 1 for s in steps)}, "
        f"the farthest {max(steps)} steps and {max(d.relative for d in differences):.2%} of the sound"
    )
    strange = sum(not d.nearest or d.relative > MOST for d in differences)
    print(f"of another request: {strange}; wrong, lost or cut: {len(answers.wrong)}")
    print("\n".join(answers.wrong[:10]))
    if answers.wrong or strange:
        raise SystemExit(1)


MOST = 0.05
"""Share of a sound by which rounding may change it."""


@dataclass(frozen=True)
class Difference:
    """How far an answer is from the sound that its line gives by itself.

    Attributes:
        steps: greatest difference of a sample, in steps of 16 bits.
        relative: root of the mean squared difference over that of the sound.
        nearest: no other line's sound is nearer.
    """

    steps: int
    relative: float
    nearest: bool

    @classmethod
    def of(cls, sound: np.ndarray, number: int, expected: Sequence[np.ndarray]) -> Difference:
        own = expected[number].astype(float)
        if sound.shape != own.shape:
            return cls(1 << 16, float("inf"), False)
        distances = [float(np.square(sound - other.astype(float)).mean()) for other in expected]
        most = int(np.abs(sound - own).max())
        relative = float(np.sqrt(distances[number] / max(np.square(own).mean(), 1.0)))
        return cls(most, relative, int(np.argmin(distances)) == number)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("throughput", "crowd", "both"), default="both")
    parser.add_argument("--ckpt-path", help="model to serve; default: one of a small layer")
    parser.add_argument("--model-config", help="its model file, if it has none in it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", action="append", help="prompts of the clips")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seconds", type=float, help="length of the clips; default: the model's")
    parser.add_argument("--lines", type=int, default=40, help="different clips that are asked for")
    parser.add_argument("--clients", type=int, default=16, help="of throughput")
    parser.add_argument("--requests", type=int, default=4, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput, after one to warm up")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--crowd", type=int, default=500, help="clients at once")
    parser.add_argument("--kills", type=int, default=1, help="how often the process that renders is killed")
    parser.add_argument("--kill-after", type=float, default=5.0, metavar="SECONDS")
    args = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        if args.ckpt_path is None:
            args.ckpt_path, args.model_config = small_model(Path(folder))
        if args.what in ("throughput", "both"):
            throughput(args, Path(folder))
        if args.what in ("crowd", "both"):
            crowd(args, Path(folder))


if __name__ == "__main__":
    main()
