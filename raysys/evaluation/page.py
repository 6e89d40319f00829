"""A run as one page that needs no network: what it is, how it learnt, how good it is, for whom, and examples.

What comes from logs and configs is escaped: it may be hostile.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from raysys.data.webpage import Html, empty, folded, header, own_file, plot, section, shell, text, tiles
from raysys.data.wording import percent
from raysys.evaluation.examples import KINDS, SHOWN, Example, Examples, Item
from raysys.evaluation.page_reliability import Reliabilities, reliability_figures, reliability_sections
from raysys.evaluation.page_sharing import sharing_figures, sharing_sections
from raysys.evaluation.page_tables import (
    figure,
    first_beside,
    headlines,
    interval,
    known,
    pretty,
    ratio,
    report_tables,
)
from raysys.evaluation.protocol import Estimate, EvalReport, lower_is_better

Slices = Mapping[str, Mapping[str, Estimate]]

_LONGEST_NAME = 200
_SPLITS = {"test": "Test", "valid": "Validation"}  # in the order of the page
_SLICES = {"history": "Users by how much is known of them", "item": "Held-out items by how popular they were"}


@dataclass(frozen=True)
class RunFacts:
    """What the page of a run tells."""

    project: str
    run_id: str
    created: datetime
    facts: Mapping[str, str]
    """What the run is, by name, in the order of the page: dataset, tasks, backbone, ..."""
    place: str
    """Where the run was written and with what, for the foot of the page."""
    config: str
    """The resolved config as YAML."""
    confidence: float
    """Of all intervals."""
    best_epoch: int
    history: Sequence[Mapping[str, float]]
    """Of each epoch: `epoch`, `loss`, `loss/TASK`, `weight/TASK`, `cosine/A|B` where gradients were compared, and
    TASK.METRIC where it was validated."""
    monitor: str | None
    """The validation metric that decided which epoch was kept."""
    reports: Sequence[EvalReport]
    parent_reports: Sequence[EvalReport]
    """Of the parent run, where it was judged on the same dataset."""
    popular_slices: Slices
    """The slices of the first report of `in_page_order`, for popularity."""
    reliabilities: Reliabilities
    """Of the tasks that predict probabilities, on the split of the first report of `in_page_order`."""
    examples: Examples | str
    """Examples, or why there are none."""


def page(facts: RunFacts) -> str:
    """Return the page as HTML: everything in it is inlined, and scripts that are not its own are not run."""
    style, script = (own_file("raysys.evaluation", name) for name in ("page.css", "page.js"))
    body = f"""{_header(facts)}
<div class="cards">
{"".join(_sections(facts))}
</div>
<footer>{text(facts.place)}</footer>"""
    figures = _curves(facts) | sharing_figures(facts.history, facts.best_epoch)
    figures |= _slice_figures(facts) | reliability_figures(facts.reliabilities)
    return shell(f"{facts.project} {facts.run_id}", body, style, script, figures)


def in_page_order(reports: Sequence[EvalReport]) -> list[EvalReport]:
    """Return reports in the order of a page: the test split, then validation."""
    order = list(_SPLITS)
    return sorted(reports, key=lambda report: order.index(report.split) if report.split in order else len(order))


def _header(facts: RunFacts) -> Html:
    remark = f"Trained {facts.created:%Y-%m-%d %H:%M} UTC"
    return Html(f"{header(facts.project, facts.run_id, remark, facts.facts)}{_headlines(facts)}")


def _headlines(facts: RunFacts) -> Html:
    report = next(iter(in_page_order(facts.reports)), None)
    if report is None or not report.metrics:
        return Html("")
    shown = []
    for name in headlines(report):
        found, beside = report.metrics[name], first_beside(report, name)
        span = f", {_percent(facts.confidence)} interval {interval(found)}" if interval(found) else ""
        shown.append((figure(found.mean), f"{pretty(name)} on {report.split}{span}"))
        if beside is not None and ratio(found, beside[1]):
            better = "; below 1 is better" if lower_is_better(name) else ""
            shown.append((ratio(found, beside[1]), f"that of {beside[0]}, {figure(beside[1].mean)}{better}"))
    return tiles(shown)


def _sections(facts: RunFacts) -> Iterable[Html]:
    yield _learning(facts)
    reports = in_page_order(facts.reports)
    gates, split = (reports[0].gates, reports[0].split) if reports else ({}, "")
    yield from sharing_sections(facts.history, gates, split)
    parents = {report.split: report for report in facts.parent_reports}
    for at, report in enumerate(reports):
        yield _split(report, parents.get(report.split), facts.confidence, is_open=at == 0)
    if not reports:
        yield section("Evaluation", "", empty("No user has events to evaluate."), wide=True)
    if reports:
        yield from reliability_sections(facts.reliabilities, reports[0].split)
    for name in _slice_figures(facts):
        note = f"{pretty(_sliced(reports[0]))} on {reports[0].split}, {_percent(facts.confidence)} intervals."
        yield section(_SLICES[name.removeprefix("slices-")], note, plot(name))
    yield _examples(facts.examples)
    yield section("Config", "", folded("As it was resolved", facts.config), wide=True)


def _learning(facts: RunFacts) -> Html:
    curves = _curves(facts)
    figures = "".join(
        f"<figure><figcaption>{text(curve['name'])}</figcaption>{plot(name)}</figure>" for name, curve in curves.items()
    )
    note = f"By epoch; dashed: epoch {facts.best_epoch}, whose weights were kept."
    if not curves:
        return section("Learning", "", empty("No epoch was recorded."), wide=True)
    return section("Learning", note, f'<div class="curves">{figures}</div>', wide=True)


def _curves(facts: RunFacts) -> dict[str, Any]:
    """Return a curve for the loss, for that of each task where there are several, and for a metric of each task."""
    names = list(dict.fromkeys(name for line in facts.history for name in line))
    losses = [name for name in names if name.startswith("loss/")]
    losses = ["loss", *losses] if len(losses) > 1 else ["loss"] if "loss" in names else []
    metrics = [name for name in names if "." in name and not name.startswith("loss")]
    best = {name.rpartition(".")[0]: name for name in reversed(metrics) if name.endswith((".ndcg@10", ".auc"))}
    tasks = list(dict.fromkeys(name.rpartition(".")[0] for name in metrics))
    chosen = [best.get(task) or next(name for name in metrics if name.rpartition(".")[0] == task) for task in tasks]
    if facts.monitor in metrics:
        chosen = [facts.monitor, *(name for name in chosen if name != facts.monitor)]
    return {
        f"curve-{at}": {
            "name": text(_curve_name(name)),
            "epochs": [line["epoch"] for line in facts.history if name in line],
            "values": [known(line[name]) for line in facts.history if name in line],
            "kept": facts.best_epoch,
        }
        for at, name in enumerate([*losses, *chosen])
    }


def _curve_name(name: str) -> str:
    if name.startswith("loss"):
        _, _, task = name.partition("/")
        return f"training loss of {task}" if task else "training loss"
    return f"{pretty(name)} of {name.rpartition('.')[0]} on validation"


def _split(report: EvalReport, parent: EvalReport | None, confidence: float, is_open: bool) -> Html:
    users = f"{report.num_users:,} of {report.num_users_of_split:,} users with events of the split"
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in report.notes)
    body = Html(f"{report_tables(report, parent)}{notes}")
    if not is_open:
        body = Html(f"<details><summary>The same tables for this split</summary>{body}</details>")
    note = f"{report.protocol[:1].upper()}{report.protocol[1:]}. {users}; {_percent(confidence)} intervals over users."
    return section(_SPLITS.get(report.split, report.split), note, body, wide=True)


def _sliced(report: EvalReport) -> str:
    """Return the metric that slices are shown in."""
    return headlines(report)[0]


def _slice_figures(facts: RunFacts) -> dict[str, Any]:
    reports = in_page_order(facts.reports)
    if not reports or not reports[0].slices:
        return {}
    report, metric = reports[0], _sliced(reports[0])
    found = {}
    for kind in _SLICES:
        own = {name: part[metric] for name, part in report.slices.items() if name.startswith(kind) and metric in part}
        beside = {name: facts.popular_slices.get(name, {}).get(metric) for name in own}
        series = [{"name": "this run", "points": [_point(part) for part in own.values()]}]
        if any(beside.values()):
            series.append({"name": "popularity", "points": [_point(part) for part in beside.values()]})
        if own:
            names = [_slice_name(name) for name in own]
            found[f"slices-{kind}"] = {"slices": names, "metric": pretty(metric), "series": series}
    return found


def _slice_name(name: str) -> str:
    kind, _, which = name.partition(" ")
    if kind == "item":
        return text(which)
    return text("no event (cold)" if which == "0" else f"{which} event{'' if which == '1' else 's'}")


def _point(found: Estimate | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    values = {"mean": found.mean, "low": found.low, "high": found.high}
    return {**{name: known(value) for name, value in values.items()}, "count": found.count}


def _percent(confidence: float) -> str:
    return f"{100 * confidence:g} %"


def _examples(found: Examples | str) -> Html:
    if isinstance(found, str):
        return section("Examples", "", empty(found), wide=True)
    if not found.chosen:
        return section("Examples", "", empty("No user of the split has a list."), wide=True)
    shares = ", ".join(f"{percent(found.shares[kind])} {_PLURALS[kind]}" for kind in KINDS if kind in found.shares)
    users = f"{found.num_sampled:,} of {found.num_users:,} users of the {found.split} split"
    note = (
        f"The first four of each kind in the order of a hash of the user ids, not chosen by hand. Of the first {users} "
        f"there are {shares}: a hit has a held-out item among the first {min(SHOWN, found.depth)}, a near miss further "
        f"down in the first {found.depth}."
    )
    cards = "".join(_example(example, found.depth) for example in found.chosen)
    return section("Examples", note, f'<div class="examples">{cards}</div>', wide=True)


_PLURALS = {"hit": "hits", "near miss": "near misses", "miss": "misses"}


def _example(example: Example, depth: int) -> str:
    earlier = f"<li class=soft>{example.num_earlier:,} earlier</li>" if example.num_earlier else ""
    history = earlier + "".join(f"<li>{_item(item)}</li>" for item in example.history)
    held_out = "".join(
        f"<li>{_item(one.item)}<small>{f'place {one.place}' if one.place else f'not in the first {depth}'}"
        f"{', had before' if one.had_before else ''}</small></li>"
        for one in example.held_out
    )
    ranked = "".join(
        f"<li{' class=found' if place in example.found else ''}>{_item(item)}</li>"
        for place, item in enumerate(example.ranked, start=1)
    )
    return (
        f'<article><h3><span class="who">{text(example.user_id)}</span>'
        f'<span class="kind {example.kind.partition(" ")[0]}">{text(example.kind)}</span></h3>'
        f"<div><h4>Had, newest last</h4><ul>{history or '<li class=soft>nothing</li>'}</ul></div>"
        f"<div><h4>Held out</h4><ul>{held_out}</ul></div>"
        f"<div><h4>Ranked first</h4><ol>{ranked}</ol></div></article>"
    )


def _item(item: Item) -> Html:
    name = item.name if len(item.name) <= _LONGEST_NAME else f"{item.name[:_LONGEST_NAME]}..."
    told = name if item.item_id in (None, name) else f"{name} ({item.item_id})"
    return Html(f'<span title="{text(told)}">{text(name)}</span>')
