"""The config of `raysys ingest`: what the logs are and how they become a dataset."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from raysys.component import FrozenConfig, OneOf
from raysys.data.attribution import LabelJoin
from raysys.data.cleaning import CleanConfig
from raysys.data.formats import FORMATS
from raysys.data.formats.source import SourceConfig
from raysys.data.privacy import Pseudonymise
from raysys.data.splitting import SPLITS, GlobalTime
from raysys.data.tables import ItemsConfig, UsersConfig
from raysys.data.validation import RulesConfig
from raysys.errors import nearest

Source = Annotated[SourceConfig, OneOf(FORMATS, tag="format")]
SplitConfig = Annotated[FrozenConfig, OneOf(SPLITS, default="time")]


class IngestConfig(FrozenConfig):
    """Everything `raysys ingest` needs. A config with one source may write its keys at the top level."""

    project: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the dataset, its runs and its aliases."""
    root: str = "store"
    """Directory under which datasets, runs, aliases and studies live."""
    plugins: tuple[str, ...] = ()
    """Modules to import first: they may add formats, tasks, backbones, ... to the registries."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """The logs. Where times tie, the order of sources decides, then the order of paths, then that of rows."""
    labels: dict[str, LabelJoin] = {}
    """Labels of one event that other events set: `{purchase: {on: impression, within: 7d}}`."""
    items: ItemsConfig | None = None
    """A table with titles and features of items; by default the one that comes with the format, if any."""
    users: UsersConfig | None = None
    """A table with features of users."""
    history: tuple[str, ...] = ()
    """Events that become tokens of a user's history; all of them when empty."""
    split: SplitConfig = GlobalTime.Config()
    rules: RulesConfig = RulesConfig()
    """What makes a row bad."""
    clean: CleanConfig = CleanConfig()
    """What is left out or filled on purpose, though nothing is wrong with it."""
    drop: tuple[str, ...] = ()
    """Columns of the logs and tables that are never written anywhere, whatever else names them."""
    pseudonymise: Pseudonymise | None = None
    """Replaces user ids by a keyed hash before anything is written."""
    sample_users: float = Field(1.0, gt=0, le=1)
    """Share of the users that are kept, for a first try on a huge log."""
    max_rejected: float = Field(0.05, ge=0, le=1)
    """Share of rows that may be rejected before the ingestion fails."""
    events_per_shard: int = Field(1_000_000, ge=1)
    """Users are spread over as many shards as the log holds multiples of this; it bounds the memory of a task."""

    @field_validator("labels", mode="before")
    @classmethod
    def _label_names(cls, value: Any) -> Any:
        for name in value if isinstance(value, Mapping) else ():
            if not str(name).isidentifier():
                raise ValueError(f"{name!r}: a label's name is one word of letters, digits and _")
        return value

    @model_validator(mode="after")
    def _no_id_in_clear(self) -> "IngestConfig":
        if self.pseudonymise is None:
            return self
        tables = [table for table in (self.users,) if table is not None]
        named = [(f"users.{kind}", name, table.id) for table in tables for kind, name in table.features()]
        for number, source in enumerate(self.sources):
            wanted = columns.wanted() if (columns := getattr(source, "columns", None)) else {}
            own = wanted.get("user_id", "")
            named += [(f"sources.{number}.columns.{name}", column, own) for name, column in wanted.items()]
        for place, column, own in named:
            if column == own and not place.endswith(".user_id"):
                raise ValueError(f"{place}: {column!r} holds the user ids, which pseudonymise must not let through")
        return self

    @model_validator(mode="after")
    def _no_core_without_the_held_out(self) -> "IngestConfig":
        if self.clean.k_core is not None and self.split.kind == "item_held_out":  # type: ignore[attr-defined]
            raise ValueError(
                "clean.k_core counts training events, and item_held_out leaves some items none of them; choose one"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_source_at_top_level(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        sources = value.get("sources") or [{}]
        if not isinstance(sources, list | tuple) or len(sources) != 1 or not isinstance(sources[0], Mapping):
            return value
        part = FORMATS.get(str(sources[0].get("format", value.get("format"))))
        fields = part.Config.model_fields if part else SourceConfig.model_fields
        loose = {
            key: inner
            for key, inner in value.items()
            if key not in cls.model_fields and (key in fields or key == "format" or not nearest(key, cls.model_fields))
        }
        kept = {key: inner for key, inner in value.items() if key not in loose}
        return {**kept, "sources": [{**sources[0], **loose}]} if loose else value
