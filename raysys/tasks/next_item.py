"""Next item: which item of the catalogue comes next."""

from typing import Literal

from raysys.tasks.retrieval import Retrieval, RetrievalConfig


class NextItem(Retrieval):
    """Autoregressive retrieval, the pretraining task."""

    class Config(RetrievalConfig):
        """Predict each event from the state strictly before it."""

        kind: Literal["next_item"] = "next_item"
