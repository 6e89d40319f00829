"""Tasks. To add one: write `tasks/x.py` with a class derived from Task, and add its line here (or from a plugin)."""

from raysys.tasks.binary import Binary, Click
from raysys.tasks.conversion import Conversion
from raysys.tasks.masked_item import MaskedItem
from raysys.tasks.next_item import NextItem
from raysys.tasks.rating import Rating
from raysys.tasks.task import Task
from raysys.tasks.watch_time import WatchTime

TASKS: dict[str, type[Task]] = {
    "binary": Binary,
    "click": Click,
    "conversion": Conversion,
    "masked_item": MaskedItem,
    "next_item": NextItem,
    "rating": Rating,
    "watch_time": WatchTime,
}
