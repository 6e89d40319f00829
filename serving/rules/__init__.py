"""Business rules, one file each. To add a kind: a class in a file here, and a line in RULES."""

from collections.abc import Sequence

from raysys.component import FrozenConfig, kind_of
from serving.rules.cap import Cap
from serving.rules.exclude_recent import ExcludeRecent
from serving.rules.in_stock import InStock
from serving.rules.pin import Pin
from serving.rules.rule import Rule, RuleFacts, Walk

RULES: dict[str, type[Rule]] = {"in_stock": InStock, "cap": Cap, "pin": Pin, "exclude_recent": ExcludeRecent}
"""Kind -> class."""


def make_rules(configs: Sequence[FrozenConfig], facts: RuleFacts) -> list[Rule]:
    """Return the rules that configs describe, checked against a run.

    Raises:
        UserError: the run has no such column, event or item.
    """
    return [RULES[kind_of(config)](config, facts, f"rules.{place}") for place, config in enumerate(configs)]


__all__ = ["RULES", "Rule", "RuleFacts", "Walk", "make_rules"]
