"""The tables of a run's page: every metric with its interval, beside the baselines and the parent run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raysys.data.webpage import Html, empty, table, text
from raysys.evaluation.protocol import Estimate, EvalReport, depth_of

ACCURACY = {
    "ndcg": ("NDCG", "share of held-out items found, those further up counting more"),
    "recall": ("Recall", "share of held-out items found"),
    "hit_rate": ("Hit rate", "share of users with a hit"),
    "mrr": ("MRR", "1 / place of the first hit, 0 without one"),
}
"""Metrics of lists against what was held out: name for people, and what it means."""

BEYOND = {
    "coverage": ("Coverage", "share of the catalogue that is shown to somebody"),
    "gini": ("Gini of exposure", "0 when all items are shown alike, near 1 when few are shown to everybody"),
    "popularity": ("Popularity of items", "mean percentile of the items shown; 1 is the most popular item"),
    "popularity_lift": ("Popularity lift", "items shown beside those users chose: 0 as popular, 1 twice as popular"),
    "novelty": ("Novelty", "how rare the items shown are: mean bits of information"),
    "serendipity": ("Serendipity", "share of held-out items found that the popularity list does not show"),
    "diversity": ("Diversity", "how far categories in a list differ: 0 the same, 1 nothing in common"),
}
"""Metrics of lists beyond accuracy."""

LABELS = {
    "rmse": ("RMSE", "typical error, in units of the label; lower is better"),
    "mae": ("MAE", "mean absolute error, in units of the label; lower is better"),
    "auc": ("AUC", "chance that a positive stands above a negative; 0.5 is guessing"),
    "gauc": ("GAUC", "the same within one user's pairs, a mean over users weighted by their pairs"),
    "xauc": ("XAUC", "share of pairs of different labels in the right order; 0.5 is guessing"),
    "log_loss": ("Log loss", "nats; lower is better"),
    "normalised_entropy": ("Normalised entropy", "log loss over that of the rate itself; below 1 something was learnt"),
    "ece": ("Calibration error", "how far predicted and observed rates are apart, in bins; lower is better"),
    "ece_floor": ("Calibration error, by chance", "what would be seen if every prediction were right"),
    "ece_raw": ("Calibration error, raw", "the same before calibration"),
    "top_decile_lift": ("Lift of the top decile", "rate of positives in the highest tenth over that of all"),
}
"""Metrics of predicted labels."""

_NAMES = ACCURACY | BEYOND | LABELS


@dataclass(frozen=True)
class Columns:
    """What stands in a table beside the run: the metrics of others, by their names for people."""

    beside: Mapping[str, Mapping[str, Estimate]]
    parent: Mapping[str, Estimate]

    @staticmethod
    def of(report: EvalReport, parent: EvalReport | None) -> "Columns":
        """Take the baselines of a report, and the report of the parent run on the same split and dataset."""
        beside = {name.replace("_", " "): metrics for name, metrics in report.baselines.items()}
        return Columns(beside, {} if parent is None else parent.metrics)

    def about(self, names: Sequence[str]) -> "Columns":
        """Return the columns that have one of these metrics."""
        beside = {who: metrics for who, metrics in self.beside.items() if any(name in metrics for name in names)}
        return Columns(beside, self.parent if any(name in self.parent for name in names) else {})


def pretty(metric: str) -> str:
    """Return the name of a metric for people: NDCG@10 for next_item.ndcg@10."""
    name, _, depth = metric.rpartition(".")[2].partition("@")
    return _NAMES.get(name, (name, ""))[0] + (f"@{depth}" if depth else "")


def headline_depth(report: EvalReport) -> int:
    """Return 10 where lists are measured at 10, else the largest depth; 0 without lists."""
    depths = {depth_of(name) for name in report.metrics}
    return 10 if 10 in depths else max(depths, default=0)


def headlines(report: EvalReport) -> list[str]:
    """Return the metrics that matter most: NDCG and recall of lists; without lists, what there is of labels."""
    depth = headline_depth(report)
    lists = [name for name in report.metrics if name.endswith((f".ndcg@{depth}", f".recall@{depth}"))]
    return (lists or list(report.metrics))[:2]


def first_beside(report: EvalReport, metric: str) -> tuple[str, Estimate] | None:
    """Return the first baseline that has a metric: popularity for lists, the training mean for labels."""
    columns = Columns.of(report, None).beside.items()
    return next(((name, metrics[metric]) for name, metrics in columns if metric in metrics), None)


def figure(value: float) -> str:
    """Return a metric with four places, fewer where it is large; a dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    return (f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}").replace("-", "−")


def known(value: float) -> float | None:
    """Return a value for a plot: None where it is undefined, because JSON has no NaN."""
    return value if math.isfinite(value) else None


def interval(found: Estimate) -> str:
    """Return the interval of an estimate; empty where it has none."""
    known = math.isfinite(found.low) and math.isfinite(found.high) and found.low != found.high
    return f"{figure(found.low)} to {figure(found.high)}" if known else ""


_NO_RATIO = {"ece_floor"}  # says how many pairs there are, not how good a model is


def ratio(found: Estimate, base: Estimate) -> str:
    """Return a metric as a multiple of another's; empty where there is none."""
    known = math.isfinite(found.mean) and math.isfinite(base.mean) and base.mean > 0
    return f"{found.mean / base.mean:.2f} ×" if known else ""


def report_tables(report: EvalReport, parent: EvalReport | None) -> Html:
    """Return the tables of a split: for each task accuracy, what is beyond it, and labels, whatever there is."""
    if not report.metrics:
        return empty("Nobody in this split has anything that the tasks are measured by.")
    columns, depth = Columns.of(report, parent), headline_depth(report)
    parts = []
    for task in dict.fromkeys(name.rpartition(".")[0] for name in report.metrics):
        own = [name for name in report.metrics if name.rpartition(".")[0] == task]
        beyond = [name for name in own if _base(name) in BEYOND]
        others = sorted((name for name in own if _base(name) not in BEYOND), key=lambda name: _place(own, name))
        shown = [name for name in beyond if depth_of(name) == depth]
        if others:
            parts.append(_table(f"{task}: accuracy", others, report, columns.about(others), with_ratio=True))
        if shown:
            parts.append(_table(f"{task}: beyond accuracy", shown, report, columns.about(shown), with_ratio=False))
    return Html("".join(parts))


def _table(title: str, names: Sequence[str], report: EvalReport, columns: Columns, with_ratio: bool) -> Html:
    header = ["metric", "this run", *columns.beside]
    base = next(iter(columns.beside), None) if with_ratio else None
    if base is not None:
        header.insert(3, f"vs {base}")
    if columns.parent:
        header.append("parent run")
    rows = _rows(names, report, columns, base)
    return Html(f"<h3>{text(title)}</h3>{table(header, rows, numeric=range(1, len(header)), kind='metrics')}")


def _rows(names: Sequence[str], report: EvalReport, columns: Columns, base: str | None) -> Iterable[list[Html]]:
    explained: set[str] = set()
    for name in names:
        found = report.metrics[name]
        meaning = "" if _base(name) in explained else _NAMES.get(_base(name), ("", ""))[1]
        explained.add(_base(name))
        cells = [_named(pretty(name), meaning), _cell(found)]
        cells += [_cell(metrics.get(name)) for metrics in columns.beside.values()]
        if base is not None:
            other = columns.beside[base].get(name)
            cells.insert(3, text("" if other is None or _base(name) in _NO_RATIO else ratio(found, other)))
        if columns.parent:
            cells.append(_cell(columns.parent.get(name)))
        yield cells


def _cell(found: Estimate | None) -> Html:
    return Html("") if found is None else _named(figure(found.mean), interval(found))


def _named(value: str, remark: str) -> Html:
    return Html(f"{text(value)}<small>{text(remark)}</small>" if remark else text(value))


def _base(metric: str) -> str:
    return metric.rpartition(".")[2].partition("@")[0]


def _place(own: Sequence[str], metric: str) -> tuple[int, int]:
    """Order metrics by name, as they first appear, then by depth."""
    bases = list(dict.fromkeys(_base(name) for name in own))
    return bases.index(_base(metric)), depth_of(metric)
