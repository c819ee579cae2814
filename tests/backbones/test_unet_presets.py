"""The presets of the general U-Net against literal implementations of the networks that they stand for."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.unet import UNet
from stable_audio.types import Conditioning
from tests.golden.kinds.assembly import construct

CONFIGS = Path(__file__).parents[2] / "model_configs" / "unet"


def preset(name: str, **change: Any) -> UNet:
    model = json.loads((CONFIGS / f"{name}.json").read_text())["model"]
    section = model.get("diffusion", model)
    return construct(UNet, {**section["config"], **change})


def sinusoids(steps: Tensor, dim: int) -> Tensor:
    """cos(s / 10000^(2i / dim)), then the sines; angles in float32, whatever the weights are."""
    frequencies = torch.exp(-math.log(10_000) * (torch.arange(dim // 2) / (dim // 2)))
    angles = steps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1).double()


# U-Net conditioned by concatenation


class ConcatRes(nn.Module):
    def __init__(self, c_in: int, c_out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(time, c_out)
        self.norm2, self.conv2 = nn.GroupNorm(32, c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class ConcatAttention(nn.Module):
    """GroupNorm(32), 1x1 convolution to q, k, v, multi-head attention, 1x1 convolution, residual."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(32, c), nn.Conv2d(c, 3 * c, 1)
        self.attention = nn.MultiheadAttention(c, 8, batch_first=True)
        self.out = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p.flatten(2).transpose(1, 2) for p in self.qkv(self.norm(x)).chunk(3, dim=1))
        y, _ = self.attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(x.shape))


class ConcatUNet(nn.Module):
    """Two residual blocks per level, attention behind them at the two lowest rates, one skip per level."""

    def __init__(self, c_in: int, c_out: int, width: int, hidden: int = 1024) -> None:
        super().__init__()
        widths, attends = [width * m for m in (1, 2, 3, 4)], (False, False, True, True)
        self.time = nn.Sequential(nn.Linear(256, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.first = nn.Conv2d(c_in, width, 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (before, c) in enumerate(zip([width, *widths], widths)):
            down = nn.ModuleList([ConcatRes(before, c, hidden), ConcatRes(c, c, hidden)])
            if attends[level]:
                down.append(ConcatAttention(c))
            self.downs.append(down)
        self.shrink = nn.ModuleList(nn.Conv2d(c, c, 3, stride=2, padding=1) for c in widths[:-1])
        c = widths[-1]
        self.middle = nn.ModuleList([ConcatRes(c, c, hidden), ConcatAttention(c), ConcatRes(c, c, hidden)])
        for level in (3, 2, 1, 0):
            up = nn.ModuleList([ConcatRes(c + widths[level], widths[level], hidden)])
            c = widths[level]
            up.append(ConcatRes(c, c, hidden))
            if attends[level]:
                up.append(ConcatAttention(c))
            self.ups.append(up)
        self.grow = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for c in widths[:0:-1])
        self.norm, self.last = nn.GroupNorm(32, width), nn.Conv2d(width, c_out, 3, padding=1)

    def forward(self, x: Tensor, source: Tensor, steps: Tensor) -> Tensor:
        time = self.time(sinusoids(steps, 256))
        x, skips = self.first(torch.cat([x, source], dim=1)), []
        for level, down in enumerate(self.downs):
            x = through(down, x, time)
            skips.append(x)
            x = self.shrink[level](x) if level < 3 else x
        x = through(self.middle, x, time)
        for level, up in enumerate(self.ups):
            x = through(up, torch.cat([x, skips.pop()], dim=1), time)
            if level < 3:
                x = self.grow[level](x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        return self.last(F.silu(self.norm(x)))


# DDPM U-Net


class DdpmRes(nn.Module):
    """Convolution, GroupNorm, SiLU, twice, with the time between."""

    def __init__(self, c_in: int, c_out: int, time: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.GroupNorm(4, c_out)
        self.time = nn.Linear(time, c_out)
        self.conv2, self.norm2 = nn.Conv2d(c_out, c_out, 3, padding=1), nn.GroupNorm(4, c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + F.silu(self.norm2(self.conv2(h)))


class DdpmAttention(nn.Module):
    """Norm over all channels, attention of four heads, residual."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(1, c), nn.MultiheadAttention(c, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(h, h, h)[0].transpose(1, 2).reshape(x.shape)


class DdpmUNet(nn.Module):
    """Down blocks C -> C -> 2C -> 4C, the last without downsampling; one up block less; a residual block."""

    def __init__(self, channels: int, width: int, multipliers: tuple[int, ...]) -> None:
        super().__init__()
        hidden, widths = 4 * width, [width, *(width * m for m in multipliers)]
        pairs = list(itertools.pairwise(widths))
        self.time = nn.Sequential(nn.Linear(1000, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.first = nn.Conv2d(channels, width, 7, padding=3)
        self.downs = nn.ModuleList(
            nn.ModuleList([DdpmRes(i, o, hidden), DdpmRes(o, o, hidden), DdpmAttention(o)]) for i, o in pairs
        )
        self.shrink = nn.ModuleList(nn.Conv2d(o, o, 4, stride=2, padding=1) for _, o in pairs[:-1])
        c = widths[-1]
        self.middle = nn.ModuleList([DdpmRes(c, c, hidden), DdpmAttention(c), DdpmRes(c, c, hidden)])
        self.ups = nn.ModuleList(
            nn.ModuleList([DdpmRes(2 * o, i, hidden), DdpmRes(i, i, hidden), DdpmAttention(i)])
            for i, o in pairs[:0:-1]
        )
        self.grow = nn.ModuleList(nn.ConvTranspose2d(i, i, 4, stride=2, padding=1) for i, _ in pairs[:0:-1])
        self.final, self.last = DdpmRes(width, width, hidden), nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        time = self.time(sinusoids(steps, 1000))
        x, skips = self.first(x), []
        for level, down in enumerate(self.downs):
            x = through(down, x, time)
            skips.append(x)
            x = self.shrink[level](x) if level < len(self.shrink) else x
        x = through(self.middle, x, time)
        for up, grow in zip(self.ups, self.grow):
            x = grow(through(up, torch.cat([x, skips.pop()], dim=1), time))
        return self.last(self.final(x, time))


def through(parts: nn.ModuleList, x: Tensor, time: Tensor) -> Tensor:
    for part in parts:
        x = part(x, time) if isinstance(part, (ConcatRes, DdpmRes)) else part(x)
    return x


# Weights of the literal networks under our names

Named = Iterator[tuple[str, Tensor]]


def layer(name: str, module: nn.Module) -> Named:
    for key, value in module.state_dict().items():
        yield f"{name}.{key}", value


def residual(name: str, block: ConcatRes | DdpmRes) -> Named:
    for part in ("norm1", "conv1", "norm2", "conv2", "skip"):
        yield from layer(f"{name}.{part}", getattr(block, part))
    yield from layer(f"{name}.time.project.1", block.time)


def attention(name: str, block: ConcatAttention | DdpmAttention) -> Named:
    own = f"{name}.layers.0"
    yield from layer(f"{own}.self_norm", block.norm)
    keys = ("to_q", "keys_values.to_k", "keys_values.to_v")
    inner = block.attention
    double = isinstance(block, ConcatAttention)
    for n, key in enumerate(keys):
        place = f"{own}.self_attention.{key}"
        if isinstance(block, ConcatAttention):
            yield f"{place}.0.weight", block.qkv.weight.flatten(1).chunk(3)[n]
            yield f"{place}.0.bias", block.qkv.bias.chunk(3)[n]
        place += ".1" if double else ""
        yield f"{place}.weight", inner.in_proj_weight.chunk(3)[n]
        yield f"{place}.bias", inner.in_proj_bias.chunk(3)[n]
    out = f"{own}.self_attention.to_out"
    yield from layer(f"{out}.0" if double else out, inner.out_proj)
    if isinstance(block, ConcatAttention):
        yield f"{out}.1.weight", block.out.weight.flatten(1)
        yield f"{out}.1.bias", block.out.bias


def blocks(name: str, parts: nn.ModuleList) -> Named:
    """Residual blocks, each with the attention that follows it, as stages."""
    stage = -1
    for part in parts:
        if isinstance(part, (ConcatRes, DdpmRes)):
            stage += 1
            yield from residual(f"{name}.{stage}.resnet", part)
        else:
            yield from attention(f"{name}.{stage}.attention", part)


def named(net: ConcatUNet | DdpmUNet) -> Named:
    yield from layer("time_embedding.mlp", net.time)
    yield from layer("network.first", net.first)
    for n, down in enumerate(net.downs):
        yield from blocks(f"network.downs.{n}.stages", down)
    for n, shrink in enumerate(net.shrink):
        yield from layer(f"network.downs.{n}.downsample.conv", shrink)
    yield from blocks("network.middle", net.middle)
    for n, up in enumerate(net.ups):
        yield from blocks(f"network.ups.{n}.stages", up)
    for n, grow in enumerate(net.grow):
        inner = "1" if isinstance(net, ConcatUNet) else "conv"
        yield from layer(f"network.ups.{n}.upsample.{inner}", grow)
    if isinstance(net, DdpmUNet):
        yield from residual("network.final", net.final)
        yield from layer("network.last", net.last)
    else:
        yield from layer("network.last.norm", net.norm)
        yield from layer("network.last.conv", net.last)


def loaded(backbone: UNet, net: ConcatUNet | DdpmUNet) -> UNet:
    """`backbone` in float64 with all weights of `net`, none left over on either side."""
    backbone.load_state_dict(dict(named(net)))
    return backbone.double().eval()


def randomized(net: Any) -> Any:
    """Biases and norms too, since their starting values would hide where they act."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.double().eval()


STEPS = torch.tensor([0, 417, 999])


@pytest.mark.parametrize(("name", "channels"), [("concat_mono", 1), ("concat_3_channels", 3)])
def test_concat_preset_is_the_network_conditioned_by_concatenation(name: str, channels: int) -> None:
    torch.manual_seed(0)
    net = randomized(ConcatUNet(2 * channels, channels, width=32, hidden=32))
    small = {"channels": 32, "time": {"dim": 256, "hidden": 32, "steps": 1000}, "height": None}
    backbone = loaded(preset(name, **small), net)
    x, source = torch.randn(2, 3, channels, 16, 16, dtype=torch.float64)
    found = backbone(x, STEPS.double() / 999, Conditioning(input_concat=source))
    torch.testing.assert_close(found, net(x, source, STEPS), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "channels", "multipliers"),
    [("ddpm_mono", 1, (1, 2, 4)), ("ddpm_3_channels", 3, (1, 2, 4, 8))],
)
def test_ddpm_preset_is_the_ddpm_network(name: str, channels: int, multipliers: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = randomized(DdpmUNet(channels, width=8, multipliers=multipliers))
    backbone = loaded(preset(name, channels=8, height=None), net)
    x = torch.randn(3, channels, 16, 16, dtype=torch.float64)
    found = backbone(x, STEPS.double() / 999, Conditioning())
    torch.testing.assert_close(found, net(x, STEPS), rtol=1e-9, atol=1e-9)


def test_presets_and_literal_networks_have_the_published_sizes() -> None:
    with torch.device("meta"):
        pairs = {
            "concat_mono": ConcatUNet(2, 1, 64),
            "concat_3_channels": ConcatUNet(6, 3, 64),
            "ddpm_mono": DdpmUNet(1, 28, (1, 2, 4)),
            "ddpm_3_channels": DdpmUNet(3, 128, (1, 2, 4, 8)),
        }
        sizes = {name: (size(net), size(preset(name))) for name, net in pairs.items()}
    published = {
        "concat_mono": 20_798_977,
        "concat_3_channels": 20_802_435,
        "ddpm_mono": 1_741_069,
        "ddpm_3_channels": 132_751_491,
    }
    assert sizes == {name: (count, count) for name, count in published.items()}


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
