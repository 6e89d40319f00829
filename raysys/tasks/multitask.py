"""One shared Recommender under several tasks: what a step trains and what evaluation and serving load."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from raysys.component import FrozenConfig, kind_of
from raysys.data.batches import Batch, Targets
from raysys.data.dataset import Dataset, Manifest
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from raysys.model.recommender import Encoded, ModelConfig, Recommender
from raysys.tasks import TASKS
from raysys.tasks.pointwise import Pointwise
from raysys.tasks.task import Retrieves, ScoresPairs, Task, TaskContext


@dataclass(frozen=True)
class StepLosses:
    """Loss sums of one rank, in the order of the tasks."""

    totals_T: Tensor
    shared: tuple[Tensor, Tensor]
    """States that the tasks share, with gradient: [B, L, D] after tokens, [B, D] before the first."""


class MultiTask(nn.Module):
    """Recommender and task heads; forward gives the loss sums, so that DDP can wrap it."""

    def __init__(self, model: ModelConfig, tasks: Mapping[str, FrozenConfig], manifest: Manifest) -> None:
        """Build for a dataset.

        Raises:
            UserError: a task needs a label or event that the dataset does not have.
        """
        super().__init__()
        pairs = tuple(name for name, config in tasks.items() if issubclass(TASKS[kind_of(config)], Pointwise))
        try:
            self.recommender = Recommender(model, manifest, pairs)
        except ValueError as error:
            raise UserError(str(error)) from None
        context = TaskContext(
            name="",
            width=model.width,
            vocabulary_size=manifest.num_items + FIRST_ITEM,
            event_names=manifest.event_names,
            history=manifest.history,
            labels=manifest.labels,
            label_means=manifest.label_means,
            numbers=manifest.numbers,
            has_times=manifest.time_range is not None,
            shared_width=model.sharing.hidden,  # type: ignore[attr-defined]
        )
        heads = {name: TASKS[kind_of(config)](config, replace(context, name=name)) for name, config in tasks.items()}
        self.tasks = nn.ModuleDict(heads)
        for task in heads.values():
            task.link(heads)
        self._refuse_misfits(kind_of(model.backbone))
        # What a task can do is asked of it once: looking through a protocol costs as much as a layer.
        self._retrieving = sorted(
            (name for name, task in heads.items() if isinstance(task, Retrieves)),
            key=lambda name: heads[name].source != "users",
        )
        self._scoring_pairs = [name for name, task in heads.items() if isinstance(task, ScoresPairs)]

    @property
    def reads_labels(self) -> set[str] | None:
        """Labels that batches have to bring, for tokens and for tasks; None for all."""
        found = set(self.recommender.reads_labels)
        for task in self.named_tasks().values():
            if task.reads_labels is None:
                return None
            found |= set(task.reads_labels)
        return found

    @property
    def reads_tokens(self) -> bool:
        """Whether training looks at tokens: a backbone that knows its users by row does not."""
        return self.recommender.reads_tokens or any(task.reads_tokens for task in self.named_tasks().values())

    @property
    def reads_newest(self) -> bool:
        """Whether batches have to bring users' last events as tokens."""
        return any(task.reads_newest for task in self.named_tasks().values())

    def observe(self, dataset: Dataset) -> None:
        """Give the parts what they need to know of the training period; called once, before training."""
        self.recommender.observe(dataset)
        for task in self.named_tasks().values():
            task.observe(dataset)

    def prepare(self, batch: Batch) -> tuple[Batch, ...]:
        """Return the batch as each task wants it seen, in the order of the tasks."""
        return tuple(task.prepare(batch) for task in self.named_tasks().values())

    def counts(self, views: tuple[Batch, ...]) -> Tensor:
        """Return each task's number of valid targets on this rank [T]."""
        return torch.stack([task.count(view) for task, view in zip(self.named_tasks().values(), views, strict=True)])

    def forward(self, views: tuple[Batch, ...]) -> StepLosses:
        """Return every task's loss sum over this rank's share of a step; views of the same history share one pass."""
        passes: dict[int, Encoded] = {}
        totals = []
        for task, view in zip(self.named_tasks().values(), views, strict=True):
            encoded = passes.get(id(view.history))
            if encoded is None:
                encoded = passes[id(view.history)] = self.recommender(view.history)
            totals.append(task.loss(encoded, view, LazyLogits(self.named_tasks(), encoded, view.targets)))
        shared = passes[id(views[0].history)]
        return StepLosses(torch.stack(totals), (shared.states_BLD, shared.start_BD))

    def _refuse_misfits(self, backbone: str) -> None:
        both_ways = self.recommender.backbone.bidirectional
        for name, task in self.named_tasks().items():
            if both_ways and task.anchored:
                raise UserError(
                    f"tasks.{name}: states of the backbone {backbone} know what comes later, so they cannot be asked "
                    "for it; train masked_item with this backbone, or take another backbone"
                )
            if not both_ways and not task.anchored:
                raise UserError(
                    f"tasks.{name}: it hides tokens among others, but the backbone {backbone} looks back only; "
                    "take the backbone bert4rec, or the task next_item"
                )

    def named_tasks(self) -> dict[str, Task]:
        """Return the tasks by name, in the order of the config."""
        return dict(self.tasks.items())  # type: ignore[arg-type]

    def retriever(self, name: str | None = None) -> Retrieves:
        """Return the task that asks for items: the named one, or the first that can.

        Raises:
            UserError: no task of the run retrieves.
        """
        for task_name in self.retrieving():
            if name in (None, task_name):
                return self.named_tasks()[task_name]  # type: ignore[return-value]
        raise UserError(f"tasks: none of {', '.join(self.tasks)} retrieves items; train with next_item among the tasks")

    def retrieving(self) -> list[str]:
        """Return the names of the tasks that ask for items: those that ask for users first."""
        return list(self._retrieving)

    def pair_scorers(self) -> dict[str, ScoresPairs]:
        """Return the tasks that predict something labelled of (state, item) pairs."""
        return {name: self.tasks[name] for name in self._scoring_pairs}  # type: ignore[misc]


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
