"""What exchangeable parts have in common: a frozen Config beside the class, chosen in YAML by `kind: name`.

A registry is a plain public dict from name to class. A part is added by one file and one line in that dict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from raysys.errors import nearest


class FrozenConfig(BaseModel):
    """A configuration node: immutable, typed, and refusing keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    allowed = ", ".join(sorted(cls.model_fields))
                    text = f"unknown key {str(key)!r}{nearest(str(key), cls.model_fields)} (allowed: {allowed})"
                    raise PydanticCustomError("unknown_key", "{text}", {"text": text})
        return value


@dataclass(frozen=True)
class OneOf:
    """Annotation of a config field that holds the Config of any part in a registry, told apart by `tag`."""

    registry: Mapping[str, type]
    tag: str = "kind"
    default: str | None = None
    """The kind of a node that names none."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        serialize = core_schema.plain_serializer_function_ser_schema(
            lambda value, info: value.model_dump(mode=info.mode), info_arg=True
        )
        return core_schema.no_info_plain_validator_function(self.validate, serialization=serialize)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # By the handler, so that models inside a part's Config are among the definitions of the whole.
        configs = [part.Config for part in self.registry.values()]  # type: ignore[attr-defined]
        return {"anyOf": [handler(config.__pydantic_core_schema__) for config in configs]}

    def validate(self, value: Any) -> FrozenConfig:
        """Return the Config that `value` (a mapping with the tag, or a Config already) describes."""
        if isinstance(value, FrozenConfig):
            return value
        if not isinstance(value, Mapping):
            raise _error(f"a mapping with `{self.tag}:` is expected, not {value!r}; {self._allowed()}")
        kind = value.get(self.tag, self.default)
        if kind is None:
            raise _error(f"`{self.tag}:` is missing; {self._allowed()}")
        if not isinstance(kind, str) or kind not in self.registry:
            raise _error(f"unknown {self.tag} {kind!r}{nearest(str(kind), self.registry)} ({self._allowed()})")
        config: FrozenConfig = self.registry[kind].Config.model_validate(value)  # type: ignore[attr-defined]
        return config

    def _allowed(self) -> str:
        return f"allowed: {', '.join(sorted(self.registry))}"


def kind_of(config: FrozenConfig) -> str:
    """Return the registry name of a part's Config."""
    kind: str = config.kind  # type: ignore[attr-defined]
    return kind


def name_as_kind(value: Any) -> Any:
    """Give every entry of a mapping of parts the `kind` of its own name where it names none."""
    if not isinstance(value, Mapping):
        return value
    named = {}
    for name, node in value.items():
        node = {} if node is None else node
        named[name] = {"kind": name, **node} if isinstance(node, Mapping) else node
    return named


def _error(text: str) -> PydanticCustomError:
    return PydanticCustomError("choice", "{text}", {"text": text})
