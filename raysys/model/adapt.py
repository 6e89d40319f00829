"""Which parameters train when a run starts from another one."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import nn

from raysys.component import FrozenConfig


class Adapt(ABC):
    """Decides which parameters of a model may change."""

    Config: ClassVar[type[FrozenConfig]]

    def __init__(self, config: FrozenConfig) -> None:
        self.config = config

    @abstractmethod
    def apply(self, recommender: nn.Module) -> None:
        """Freeze what shall not change; task heads always train."""


class Full(Adapt):
    """Everything trains."""

    class Config(FrozenConfig):
        """Train every parameter."""

        kind: Literal["full"] = "full"

    def apply(self, recommender: nn.Module) -> None:
        """Leave everything trainable."""
        recommender.requires_grad_(True)


class Heads(Adapt):
    """Only task heads train; items and backbone stay as they were pretrained."""

    class Config(FrozenConfig):
        """Train the heads of tasks alone."""

        kind: Literal["heads"] = "heads"

    def apply(self, recommender: nn.Module) -> None:
        """Freeze items and backbone."""
        recommender.requires_grad_(False)


ADAPTS: dict[str, type[Adapt]] = {"full": Full, "heads": Heads}
"""Kind -> class. To add one: write a class like those above and add its line."""
