"""The sections of docs/results.md about searches: replays on a recorded table, and the winner beside other ways."""

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH = 120
"""Of a line of text."""
_FEW = 0.4
"""Of the table's trials."""


def replays(found: Mapping[str, Any]) -> str:
    """Return the section about what benchmarks/search.py found."""
    table, seeds = found["table"], found["table"]["seeds"]
    lines = [
        f"| {metric} | {name} | {_both(one['epochs'])} | {statistics.median(one['value']):.4f} "
        f"| {_both(one['regret'])} | {statistics.median(one['epochs_near']):.3f} |"
        for metric, searches in found["single"].items()
        for name, one in searches.items()
    ]
    areas = [
        f"| {pair} | {name} | {_both(shares)} | {statistics.fmean(share <= _FEW for share in shares) * 100:.0f} % |"
        for pair, searches in found["several"].items()
        for name, shares in searches.items()
    ]
    ranks = ", ".join(f"number {rank} by `{metric}`" for metric, rank in table["rank_of_the_default"].items())
    return f"""## KuaiRand: what a search saves

{table["configurations"]} configurations of six tasks (their weights, two learning rates, dropout, what tasks share)
were trained for six epochs each on a quarter of the users, and every epoch was recorded. Searches are replayed on this
table of {table["epochs"]} epochs with the samplers and schedulers of `raysys tune`. Each seed begins with a
configuration drawn for it, the same for all searches. Shares are of the table's epochs; {seeds} seeds, median (worst).
Regret at a quarter of the epochs is (best - value) / (best - median) of the table. All values are of validation. The
example's own configuration is {ranks}.

| metric | search | epochs to 98 % of the best | value / best at 25 % | regret at 25 % | epochs to a regret of 0.1 |
|---|---|---|---|---|---|
{chr(10).join(lines)}

Of two metrics together, trials until 95 % of the area that the table covers above its worst values, as shares of its
trials, and how many seeds are there within {_FEW * 100:.0f} % of them. Here searchers choose among the configurations
that they have not had, each by its own measure: `gp` by its acquisition function, `tpe` by its ratios of densities,
`random` evenly, as is usual with recorded tables ([HPO-B](https://arxiv.org/abs/2106.06257)). Of one metric a search
has the configuration nearest to its proposal.

| metrics | search | trials to 95 % of the area | seeds within {_FEW * 100:.0f} % |
|---|---|---|---|
{chr(10).join(areas)}

```bash
python benchmarks/evidence/tune_table.py
python benchmarks/search.py --quick -o benchmarks/results/search.json
make results
```
"""


def winner(found: Mapping[str, Any]) -> str:
    """Return the section about what benchmarks/evidence/tune_winner.py found."""
    summary = found["summary"]
    lines = [
        f"| {metric} | {told} | {one['first']:.4f} | {one['second']:.4f} "
        f"| {one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}) "
        f"| {', '.join(f'{seed:+.4f}' for seed in one['of_seeds'])} |"
        for told, gains in summary["gain_of_the_winner"].items()
        for metric, one in gains.items()
    ]
    weightings = ", ".join(f"`{row['name']}`" for row in found["rows"] if _is_weighting(row))
    tried = sum(row["name"].startswith("trial ") and row["seed"] == 0 for row in found["rows"])
    text = f"""The best three configurations of the same table, by the rule of `examples/kuairand/tune.yaml` over
`click.auc` and `next_item.ndcg@10`, were trained on all users, and beside them the default and each weighting method
with the default's other values. The search of the example, over weighting methods too, went on from all that for
{tried} trials. The best three, {", ".join(f"`{name}`" for name in summary["best_three"])}, were trained with a second
seed; the best on the mean of both is the winner, `{summary["winner"]}`: {_settings(summary["values"])}. Beside it
stands the weighting method that is best on validation by the same rule: `{summary["best_weighting"]}`, of {weightings}.
Only then winner, default and that method were trained with {summary["seeds"]} seeds by which nothing was chosen.
Figures are of the test period, means of these seeds; intervals (95 %) are of a paired bootstrap over users, with these
seeds. The rule is the sum of its two metrics, each scaled to [0, 1] between the worst and the best of the unbeaten
trainings on validation."""
    return f"""## KuaiRand: the winner of a search

{textwrap.fill(text, _WIDTH)}

| metric | beside | it has | the winner has | difference | of each seed |
|---|---|---|---|---|---|
{chr(10).join(lines)}

```bash
python benchmarks/evidence/tune_winner.py --trials {tried} --seeds {summary["seeds"]}
make results
```
"""


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"`{path}` {value:.3g}" if isinstance(value, float) else f"`{path}` {value}" for path, value in values.items()
    )


def _is_weighting(row: Mapping[str, Any]) -> bool:
    return row["seed"] == 0 and row["name"] != "default" and not row["name"].startswith(("configuration ", "trial "))


def _both(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({max(values):.3f})"
