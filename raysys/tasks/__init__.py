"""Tasks. To add one: write `tasks/x.py` with a class derived from Task, and add its line here (or from a plugin)."""

from raysys.tasks.binary import Binary, Click
from raysys.tasks.bundle import Bundle
from raysys.tasks.churn import Churn
from raysys.tasks.conversion import Conversion
from raysys.tasks.masked_item import MaskedItem
from raysys.tasks.next_item import NextItem
from raysys.tasks.popularity import Popularity
from raysys.tasks.rating import Rating
from raysys.tasks.similar_item import SimilarItem
from raysys.tasks.task import Task
from raysys.tasks.triplet import Triplet
from raysys.tasks.watch_count import WatchCount
from raysys.tasks.watch_time import WatchTime

TASKS: dict[str, type[Task]] = {
    "binary": Binary,
    "bundle": Bundle,
    "churn": Churn,
    "click": Click,
    "conversion": Conversion,
    "masked_item": MaskedItem,
    "next_item": NextItem,
    "popularity": Popularity,
    "rating": Rating,
    "similar_item": SimilarItem,
    "triplet": Triplet,
    "watch_count": WatchCount,
    "watch_time": WatchTime,
}
