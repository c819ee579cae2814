"""The interface of transforms: what happens to a model between its weights and its training."""

from __future__ import annotations

from typing import ClassVar

from torch import nn


class Transform:
    """A change of a model in place, such as frozen parts or adapters around its layers.

    A run applies its transforms in order once the weights are loaded, and records them in its files, where
    whoever loads these finds them: a run that goes on applies them again, and a model that is loaded for
    use is rebuilt by them. Layers may be replaced by others that hold them; the parameters that a layer has
    stay the same objects, by which a run knows which weights it has not changed.

    Attributes:
        names_weights: whether weights have other names or shapes afterwards, so that no file of them can be
            loaded without it.
    """

    names_weights: ClassVar[bool] = True

    def apply(self, model: nn.Module) -> None:
        """Change `model`, which is to be trained. Its weights may have no values yet.

        Raises:
            ValueError: the model has nothing that this changes.
        """
        raise NotImplementedError

    def rebuild(self, model: nn.Module) -> None:
        """Change `model` so that weights which were saved after `apply` fit, and give the same output.

        For models that are loaded for use, or that start another run. Nothing is trained by it.
        """
        self.apply(model)
