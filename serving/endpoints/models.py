"""GET /v1/models: what is known of the run that answers."""

from datetime import datetime
from typing import Any

from raysys.component import kind_of
from serving.endpoints.endpoint import Call, Endpoint, Reply


class Model(Reply):
    """A run that answers."""

    run_id: str
    project: str
    parent: str | None
    """The run that it was trained from."""
    created: datetime
    tasks: dict[str, str]
    """Kind of each task, by its name."""
    test: dict[str, float]
    """Metrics of the test split."""
    dataset_version: str
    dataset_fingerprint: str
    items: int
    """Size of the catalogue."""
    parameters: int
    versions: dict[str, str]
    """Of the libraries that it was trained with."""
    retrieval: dict[str, Any]
    """How items are found, and with which recall where that is not exact."""


class ModelsAnswer(Reply):
    """The runs that answer, in this replica."""

    request_id: str
    models: list[Model]


async def models(call: Call) -> ModelsAnswer:
    """Tell what the run that answers was made of, and how well it did on the test split."""
    run = call.service.run
    tasks: dict[str, Any] = dict(run.config.tasks)
    facts = run.record.model_dump(include=set(Model.model_fields))
    kinds = {name: kind_of(task) for name, task in tasks.items()}
    retrieval = dict(call.service.answerer.about.index)
    model = Model(**facts, tasks=kinds, items=call.service.num_items, retrieval=retrieval)
    return ModelsAnswer(request_id=call.request_id, models=[model])


ENDPOINT = Endpoint("GET", "/v1/models", "The run that answers", models, ModelsAnswer, tag="operations")
