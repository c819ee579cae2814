"""SAME: a transformer autoencoder that changes the rate with learned tokens instead of strided convolutions.

The layout of the Stable Audio 3 autoencoders as far as it is published: every `stride` tokens are
followed by learned ones, transformers mix them inside chunks, and the learned ones are the output.
"""

from __future__ import annotations

from torch import Tensor, nn

from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.coder import Decoder, Encoder, TransformerStages
from stable_audio.pretransforms.same_stages import SAMEStage, StageOptions


class _Frames(nn.Identity):
    """Takes the index of a transpose in the list of layers, so that the linear layer keeps its key."""


def _check_chunks(options: StageOptions, strides: list[int]) -> None:
    if options.sliding_window is not None:
        return
    broken = [s for s in strides if options.chunk_size % s]
    if broken or options.chunk_size < 1:
        raise ValueError(
            f"chunk_size counts tokens on the side of the audio and must be a multiple of every stride, "
            f"found {options.chunk_size} with strides {strides}"
        )
    longest = max(strides)
    if options.chunk_midpoint_shift and options.segments_per_chunk(longest) < 2:
        raise ValueError(
            f"chunk_midpoint_shift needs a chunk_size of at least twice every stride, {2 * longest}, "
            f"found {options.chunk_size}"
        )


class SAMEEncoder(Encoder):
    """Audio (b in_channels n) -> (b latent_dim n / prod(strides)); n is padded to a multiple.

    Args:
        stages: strides, depths and widths, those of the transformers; its fields are keywords as well.
        options: options of all stages, see `StageOptions`; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        in_channels: int = 2,
        stages: Flat[TransformerStages] = TransformerStages(),  # noqa: B008 (frozen)
        options: Flat[StageOptions] = StageOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.in_channels, self.latent_dim = in_channels, stages.latent_dim
        self.downsampling_ratio = stages.ratio
        _check_chunks(options, stages.strides)
        widths = [in_channels, *stages.widths]
        blocks = [
            SAMEStage(a, b, map_first=True, tokens_in=s, tokens_out=1, depth=d, sinusoidal=0, options=options)
            for a, b, s, d in zip(widths, widths[1:], stages.strides, stages.transformer_depths)
        ]
        self.layers = nn.ModuleList([*blocks, _Frames(), nn.Linear(widths[-1], stages.latent_dim), _Frames()])

    def forward(self, audio: Tensor) -> Tensor:
        x = audio
        for stage in self.layers[:-3]:
            x = stage(x)
        return self.layers[-2](x.mT).mT


class SAMEDecoder(Decoder):
    """Latents (b latent_dim n) -> audio (b out_channels n * prod(strides)); stages from last to first.

    Args:
        stages: strides, depths and widths, those of the transformers; its fields are keywords as well.
        sinusoidal_blocks: one number n for each entry of `strides`, or [] for none: n turns on sin(pi x) in
            the feed-forward layers of the last n - 1 blocks of that stage; 0 in none. (Block i of d has it
            where d - i < n, as in published weights.)
        options: options of all stages, see `StageOptions`; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        out_channels: int = 2,
        stages: Flat[TransformerStages] = TransformerStages(),  # noqa: B008 (frozen)
        sinusoidal_blocks: list[int] = [],  # noqa: B006
        options: Flat[StageOptions] = StageOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.latent_dim, self.out_channels = stages.latent_dim, out_channels
        self.downsampling_ratio = stages.ratio
        sinusoidal = sinusoidal_blocks or [0] * len(stages.strides)
        if len(sinusoidal) != len(stages.strides) or min(sinusoidal) < 0:
            raise ValueError(
                f"sinusoidal_blocks must be [] or one number of blocks, 0 or more, for each of the "
                f"{len(stages.strides)} strides, found {sinusoidal_blocks}"
            )
        _check_chunks(options, stages.strides)
        widths = [out_channels, *stages.widths][::-1]
        blocks = [
            SAMEStage(
                a,
                b,
                map_first=False,
                tokens_in=1,
                tokens_out=s,
                depth=d,
                sinusoidal=n,
                options=options,
            )
            for a, b, s, d, n in zip(
                widths,
                widths[1:],
                stages.strides[::-1],
                stages.transformer_depths[::-1],
                sinusoidal[::-1],
            )
        ]
        self.layers = nn.ModuleList([_Frames(), nn.Linear(stages.latent_dim, widths[0]), _Frames(), *blocks])

    def forward(self, latents: Tensor) -> Tensor:
        x = self.layers[1](latents.mT).mT
        for stage in self.layers[3:]:
            x = stage(x)
        return x
