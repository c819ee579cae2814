"""What may be done about a key or a value of another version or a fork."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rename:
    """The same thing under another name."""

    to: str


@dataclass(frozen=True)
class Ignore:
    """The key has no effect here; it is removed with a warning.

    Attributes:
        reason: why it has none.
        unlike_ours: the entry is for keys that resemble none of ours; others are mistyped.
    """

    reason: str
    unlike_ours: bool = False


@dataclass(frozen=True)
class Spread:
    """A key of the whole file that belongs to every entry of a list; entries that have it keep theirs."""

    over: str


@dataclass(frozen=True)
class Refuse:
    """The key is not supported: an error, unless the value is one of `neutral`, which have no effect.

    Attributes:
        reason: what it is, and why it is not there.
        neutral: values that ask for nothing.
        essential: without it the model would be another one, which its weights do not fit, or sound wrong in.
        training: it is about training, so that the model can still be used without it.
    """

    reason: str
    neutral: tuple[Any, ...] = (None,)
    essential: bool = False
    training: bool = False

    def message(self) -> str:
        """The mistake as one sentence that ends with what to do."""
        if self.essential:
            remedy = "it is part of the model, whose weights need it, so that --lenient does not leave it out"
        elif self.training:
            remedy = "remove the key to train without it, as --lenient does"
        else:
            remedy = "remove the key, or leave it out with --lenient"
        return f"not supported: {self.reason}; {remedy}"


Foreign = Rename | Ignore | Refuse | Spread

OFF: tuple[Any, ...] = (None, False, 0, 0.0, [], {}, "none", "")
"""Values by which a key asks for nothing."""
