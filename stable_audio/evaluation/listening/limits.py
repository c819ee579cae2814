"""Every threshold of the quickstart's evaluator. Levels are in dB, times in seconds.

They stand where a listener begins to hear a difference in a note, or above; what nobody hears must pass.
"""

from __future__ import annotations

PITCH_SEMITONES = 0.5
"""A pitch is right up to here, and never beyond."""

PARTIAL_TOLERANCE = ((-20.0, 4.0), (-30.0, 6.0))
"""(least rendered level, tolerance): partials this strong, relative to the strongest of their segment, may
lie this far outside the rendered range."""

ABSENT_BELOW = -24.0
"""Partials weaker than the last of PARTIAL_TOLERANCE, or not rendered at all, must lie below this level, or
within its tolerance of the rendered range."""

MOST_PARTIALS = 16

ENVELOPE_RANGE, ENVELOPE_TOLERANCE, ENVELOPE_SLACK = -24.0, 3.5, 0.02
"""The level in frames of 10 ms follows the rendered one, as far as that lies within this range of its peak,
up to the tolerance; it may come earlier or later by the slack."""

ENVELOPE_FRAMES_OUTSIDE = 2
"""As many frames may lie outside."""

END_LEVEL, END_MARGIN, END_SLACK = -30.0, 4.0, 0.05
"""A sound ends where its level falls below this for the last time; the rendered one does so, give or take the
margin, within the slack."""

NOISE_FLOOR, NOISE_ABOVE_RENDERED = -45.0, 3.0
"""Noise relative to the sound: a defect above both the floor and the rendered level by this much."""

NOISE_OF_ANOTHER_SOUND, NOISE_TOLERANCE = -25.0, 8.0
"""With more noise than this, and more than rendered by the tolerance, it is another timbre; so it is with
less breath than rendered by the tolerance."""

BAND_TOLERANCE = ((-15.0, 5.0), (-25.0, 8.0))
"""For drums and noises: (least rendered level, tolerance) of a band in a frame, as for partials."""

BANDS_OUTSIDE = 0.04
"""Share of the bands and frames that may lie outside."""

VIBRATO_CENTS = 12.0
"""A swing of the pitch this large is vibrato."""

VIBRATO_RATES = (4.0, 7.5)
"""Hz."""

TAIL_DB, TAIL_MARGIN = -40.0, 0.06
"""After the requested length and this margin, the level must be this far below the peak."""

CLICK_ABOVE_RENDERED, CLICK_LEAST = 2.0, 6.0
"""What stands out of its neighbourhood by the first factor more than in any rendered sound, and at least by
the second, is a click."""

CLICK_FLOOR = 0.01
"""The neighbourhood counts as at least this share of the peak."""

FLAT_TOP_SHARE, FLAT_TOP_SHARE_OF_DRUMS = 0.15, 0.015
"""More samples than rendered, by this share, at the very peak of the loudest part: clipped. The waveform of
a note may differ, for nobody hears its phase; drums and noises peak seldom."""
