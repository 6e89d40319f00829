"""The contract of a kind of export: a run as far as it was changed in, the same changed further out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from raysys.component import FrozenConfig
from raysys.data.dataset import Dataset
from raysys.runs import Run
from raysys.tasks.multitask import MultiTask

Stage = Literal["items", "weights", "program"]
STAGES: tuple[Stage, ...] = ("items", "weights", "program")
"""The order in which kinds are applied; of each there may be one in an export."""


@dataclass(frozen=True)
class Draft:
    """An export that is being made."""

    run: Run
    folder: Path
    """Where it is written."""
    dataset: Dataset
    """What it is measured with; a view of the run's where items were cut."""
    network: MultiTask
    """The model with the weights that were trained, of the items that are left."""
    state: Mapping[str, Tensor]
    """What is stored of its weights."""


class Kind(ABC):
    """One way to make a run smaller or faster."""

    Config: ClassVar[type[FrozenConfig]] = FrozenConfig
    stage: ClassVar[Stage]

    def __init__(self, config: Any) -> None:
        self.config: Any = config  # the kind's own Config

    @classmethod
    def settings(cls) -> set[str]:
        """Return the names of what can be set."""
        return set(cls.Config.model_fields)

    @classmethod
    def with_settings(cls, settings: Mapping[str, int]) -> "Kind":
        """Return the kind with those of the settings that are its own."""
        return cls(cls.Config(**{name: value for name, value in settings.items() if name in cls.settings()}))

    @abstractmethod
    def apply(self, draft: Draft) -> Draft:
        """Return the export with this done too; files beside the weights are written into its folder.

        Raises:
            UserError: it cannot be done to this run; the message says why.
        """
