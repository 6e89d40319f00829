"""Tasks. To add one: write `tasks/x.py` with a class derived from Task, and add its line here (or from a plugin)."""

from raysys.tasks.masked_item import MaskedItem
from raysys.tasks.next_item import NextItem
from raysys.tasks.rating import Rating
from raysys.tasks.task import Task

TASKS: dict[str, type[Task]] = {"masked_item": MaskedItem, "next_item": NextItem, "rating": Rating}
