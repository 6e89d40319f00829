"""The contract of what answers the questions of a service."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.answers.question import Answer, Question
from serving.answers.terms import TaskNames
from serving.catalogue.changes import Fields
from serving.catalogue.live import LiveItems
from serving.catalogue.reading import ReadItems


@dataclass(frozen=True)
class About:
    """What one has to know of the network and the index of a run without having them."""

    names: TaskNames
    index: Mapping[str, Any]
    """How items are found, and with which recall where that is not exact."""


class Answerer(ABC):
    """Answers by one run. Methods are called on the event loop and never block it."""

    about: About

    @property
    @abstractmethod
    def num_waiting(self) -> int:
        """Questions that nobody has taken yet."""

    @abstractmethod
    async def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Return the answers of several questions, which are taken together if `limits.batch` allows it.

        Raises:
            OverloadedError: they would wait beyond their `deadline`, or too many wait already.
            LateError: the deadline passed while they waited; the model was not asked.
            ClosedError: `close` was called before.
            ScorersDownError: the model is elsewhere, and does not answer.
        """

    @abstractmethod
    async def count_days(self) -> None:
        """Make ready for questions with `days`; the first call takes its time.

        Raises:
            RefusedError: the dataset is gone or has no times.
        """

    @abstractmethod
    async def check_new(self, items: Mapping[str, Fields]) -> tuple[str, ...]:
        """Return those of some new items that can be shown.

        Raises:
            UserError: the run cannot show new items at all.
        """

    @abstractmethod
    async def read_new(self, items: Mapping[str, Fields]) -> ReadItems:
        """Do the same for `follow`; nothing is shown where the run cannot."""

    @abstractmethod
    def follow(self, items: LiveItems) -> None:
        """Answer from the next questions on with these items."""

    @abstractmethod
    def problem(self) -> str | None:
        """Return why this process has to be replaced; None while it need not."""

    @abstractmethod
    async def missing(self) -> str | None:
        """Return what is not there to answer, though this process is well; None where nothing is missing."""

    @abstractmethod
    def close(self) -> None:
        """Take nothing new, and end once what waits is answered."""
