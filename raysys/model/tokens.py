"""What a token says beside its item: the kind of event, what came of it, where it happened."""

from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import Columns, History
from raysys.data.columns import ColumnSchema
from raysys.data.dataset import Manifest
from raysys.data.quantiles import Quantiles
from raysys.errors import nearest
from raysys.model.fields import FieldEncoder

_EVENT = "event"


class TokensConfig(FrozenConfig):
    """What a token says beside its item; by default nothing."""

    events: bool = False
    """The kind of event: a view is not a purchase."""
    labels: tuple[str, ...] = ()
    """Labels that were known when the event was over, such as a click or a rating; joined ones are refused, because
    they look ahead."""
    context: tuple[str, ...] = ()
    """Numbers and categories of the context."""

    def __bool__(self) -> bool:
        return bool(self.events or self.labels or self.context)


class TokenFields(nn.Module):
    """The sum of the vectors of a token's fields."""

    def __init__(self, config: TokensConfig, manifest: Manifest, width: int) -> None:
        """Build for a dataset.

        Raises:
            ValueError: it lacks a label or column, or a label looks ahead.
        """
        super().__init__()
        self.config = config
        known = (*manifest.numbers, *manifest.categories)
        for what, names, there in (("labels", config.labels, manifest.labels), ("context", config.context, known)):
            for name in names:
                if name not in there:
                    raise ValueError(
                        f"model.tokens.{what}: no {name!r} in the dataset{nearest(name, there)} "
                        f"(it has: {', '.join(there) or 'none'})"
                    )
        joined = manifest.config.get("labels") or {}
        for name in config.labels:
            if name in joined:
                raise ValueError(
                    f"model.tokens.labels: {name!r} is joined from later events, so a token would know what comes; "
                    "take labels that stand in the log of the event itself"
                )
        self.numbers = tuple(name for name in config.context if name in manifest.numbers)
        chosen = [name for name in config.context if name in manifest.categories]
        categories = {f"category.{name}": manifest.categories[name] for name in chosen}
        if config.events:
            categories[_EVENT] = len(manifest.event_names)
        numbers = (*(f"label.{name}" for name in config.labels), *(f"number.{name}" for name in self.numbers))
        self.fields = FieldEncoder(ColumnSchema(numbers=numbers, categories=categories), width)

    def observe(self, quantiles: Quantiles) -> None:
        """Take the quantiles of labels and numbers over the training period."""
        named = {f"label.{name}": quantiles.labels[name] for name in self.config.labels}
        self.fields.observe(named | {f"number.{name}": quantiles.context[name] for name in self.numbers})

    def forward(self, history: History) -> Tensor:
        """Return [B, L, D]."""
        numbers = {f"label.{name}": history.labels[name] for name in self.config.labels if name in history.labels}
        numbers |= {f"number.{name}": values for name, values in history.context.numbers.items()}
        categories = {f"category.{name}": values for name, values in history.context.categories.items()}
        categories[_EVENT] = history.events_BL
        return self.fields(Columns(numbers, categories), history.items_BL.shape).sum(-2)
