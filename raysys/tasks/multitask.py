"""One shared Recommender under several tasks: what a step trains and what evaluation and serving load."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from raysys.component import FrozenConfig, kind_of
from raysys.data.batches import Batch, Targets
from raysys.data.dataset import Manifest
from raysys.errors import UserError
from raysys.model.recommender import Encoded, ModelConfig, Recommender
from raysys.tasks import TASKS
from raysys.tasks.task import Retrieves, ScoresPairs, Task, TaskContext


@dataclass(frozen=True)
class StepLosses:
    """Loss sums and counts of one rank, in the order of the tasks."""

    totals_T: Tensor
    counts_T: Tensor
    shared_BLD: Tensor
    """States that the tasks share, with gradient."""


class MultiTask(nn.Module):
    """Recommender and task heads; forward gives the loss sums, so that DDP can wrap it."""

    def __init__(self, model: ModelConfig, tasks: Mapping[str, FrozenConfig], manifest: Manifest) -> None:
        """Build for a dataset.

        Raises:
            UserError: a task needs a label or event that the dataset does not have.
        """
        super().__init__()
        vocabulary_size = manifest.num_items + 2
        try:
            self.recommender = Recommender(model, vocabulary_size)
        except ValueError as error:
            raise UserError(str(error)) from None
        context = TaskContext(
            name="",
            width=model.width,
            vocabulary_size=vocabulary_size,
            event_names=manifest.event_names,
            history=manifest.history,
            labels=manifest.labels,
            label_means=manifest.label_means,
        )
        heads = {name: TASKS[kind_of(config)](config, replace(context, name=name)) for name, config in tasks.items()}
        self.tasks = nn.ModuleDict(heads)

    def forward(self, batch: Batch, generator: torch.Generator) -> StepLosses:
        """Return every task's loss sum and count over this rank's share of a step.

        Tasks that prepare the batch in their own way are encoded on their own; the others share one pass.
        """
        shared = self.recommender(batch.history)
        totals, counts = [], []
        for task in self.named_tasks().values():
            view = task.prepare(batch, generator)
            encoded = shared if view.history is batch.history else self.recommender(view.history)
            loss = task.loss(encoded, view, LazyLogits(self.named_tasks(), encoded, view.targets))
            totals.append(loss.total)
            counts.append(loss.count)
        return StepLosses(torch.stack(totals), torch.stack(counts), shared.states_BLD)

    def named_tasks(self) -> dict[str, Task]:
        """Return the tasks by name, in the order of the config."""
        return dict(self.tasks.items())  # type: ignore[arg-type]

    def retriever(self, name: str | None = None) -> Retrieves:
        """Return the task that asks for items: the named one, or the first that can.

        Raises:
            UserError: no task of the run retrieves.
        """
        for task_name, task in self.named_tasks().items():
            if isinstance(task, Retrieves) and name in (None, task_name):
                return task
        raise UserError(f"tasks: none of {', '.join(self.tasks)} retrieves items; train with next_item among the tasks")

    def pair_scorers(self) -> dict[str, Task]:
        """Return the tasks that predict a labelled value for (state, item) pairs."""
        return {name: task for name, task in self.named_tasks().items() if isinstance(task, ScoresPairs)}


class LazyLogits(Mapping[str, Tensor]):
    """Logits by task name, computed when first asked for: a loss that needs none pays for none."""

    def __init__(self, tasks: Mapping[str, Task], encoded: Encoded, targets: Targets) -> None:
        self._tasks, self._encoded, self._targets = tasks, encoded, targets
        self._known: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            self._known[name] = self._tasks[name].logits(self._encoded, self._targets)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)
