"""Every registered part: its name is its kind, its config is frozen, strict, and survives YAML."""

import json

import pytest
import yaml
from pydantic import ValidationError

from raysys.component import FrozenConfig, OneOf
from raysys.data.formats import FORMATS
from raysys.data.splitting import SPLITS
from raysys.evaluation.baselines import BASELINES
from raysys.evaluation.calibration import CALIBRATIONS
from raysys.model.adapt import ADAPTS
from raysys.model.backbones import BACKBONES
from raysys.model.items import ITEM_ENCODERS
from raysys.model.sharing import SHARINGS
from raysys.optimizer import OPTIMIZERS
from raysys.tasks import TASKS
from raysys.tasks.objectives import OBJECTIVES
from raysys.weighting import WEIGHTINGS

REGISTRIES = {
    "FORMATS": (FORMATS, "format"),
    "SPLITS": (SPLITS, "kind"),
    "ITEM_ENCODERS": (ITEM_ENCODERS, "kind"),
    "BACKBONES": (BACKBONES, "kind"),
    "SHARINGS": (SHARINGS, "kind"),
    "ADAPTS": (ADAPTS, "kind"),
    "TASKS": (TASKS, "kind"),
    "OBJECTIVES": (OBJECTIVES, "kind"),
    "BASELINES": (BASELINES, "kind"),
    "CALIBRATIONS": (CALIBRATIONS, "kind"),
    "OPTIMIZERS": (OPTIMIZERS, "kind"),
    "WEIGHTINGS": (WEIGHTINGS, "kind"),
}
PARTS = [(name, kind) for name, (registry, _) in REGISTRIES.items() for kind in registry]
REQUIRED = {"path": "somewhere", "label": "click", "valid_from": "2026-01-01", "test_from": "2026-02-01"}


def _config(registry: str, kind: str) -> FrozenConfig:
    """Build a part's config from its defaults; well-known required fields get a value."""
    model = REGISTRIES[registry][0][kind].Config
    needed = {name: REQUIRED[name] for name, field in model.model_fields.items() if field.is_required()}
    return model(**needed)


@pytest.mark.parametrize(("registry", "kind"), PARTS)
def test_name_is_kind(registry, kind):
    tag = REGISTRIES[registry][1]
    given = getattr(_config(registry, kind), tag)
    assert given == kind, f"{registry}[{kind!r}].Config must say `{tag}: Literal[{kind!r}]`"


@pytest.mark.parametrize(("registry", "kind"), PARTS)
def test_config_is_frozen_and_strict(registry, kind):
    config = _config(registry, kind)
    with pytest.raises(ValidationError):
        setattr(config, next(iter(type(config).model_fields)), "something else")
    with pytest.raises(ValidationError, match="unknown key"):
        type(config).model_validate({**config.model_dump(), "surely_not_a_key": 1})


@pytest.mark.parametrize(("registry", "kind"), PARTS)
def test_config_survives_yaml(registry, kind):
    parts, tag = REGISTRIES[registry]
    config = _config(registry, kind)
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert OneOf(parts, tag=tag).validate(yaml.safe_load(text)) == config


@pytest.mark.parametrize(("registry", "kind"), PARTS)
def test_config_is_documented(registry, kind):
    model = REGISTRIES[registry][0][kind].Config
    assert (model.__doc__ or "").strip(), f"{registry}[{kind!r}].Config needs a docstring: the reference page shows it"
    assert json.dumps(model.model_json_schema())
