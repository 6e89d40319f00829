"""The config of `raysys ingest`: what the logs are and how they become a dataset."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from raysys.component import FrozenConfig, OneOf
from raysys.data.formats import FORMATS
from raysys.data.formats.source import ItemsConfig, SourceConfig
from raysys.data.splitting import SPLITS, LeaveOneOut
from raysys.errors import nearest

Source = Annotated[SourceConfig, OneOf(FORMATS, tag="format")]
SplitConfig = Annotated[FrozenConfig, OneOf(SPLITS, default="leave_one_out")]


class IngestConfig(FrozenConfig):
    """Everything `raysys ingest` needs. A config with one source may write its keys at the top level."""

    project: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the dataset, its runs and its aliases."""
    root: str = "store"
    """Directory under which datasets, runs, aliases and studies live."""
    plugins: tuple[str, ...] = ()
    """Modules to import first: they may add formats, tasks, backbones, ... to the registries."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """The logs. Where times tie, the order of sources decides."""
    items: ItemsConfig | None = None
    """A table with titles and categories; by default the one that comes with the format, if any."""
    history: tuple[str, ...] = ()
    """Events that become tokens of a user's history; all of them when empty."""
    split: SplitConfig = LeaveOneOut.Config()
    max_rejected: float = Field(0.05, ge=0, le=1)
    """Share of rows that may be rejected before the ingestion fails."""
    shard_bytes: int = Field(64 << 20, ge=1 << 10)
    """Users are spread over as many shards as the sources hold multiples of this."""

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
