"""The facts of a dataset as one page that needs no network. What comes from logs is escaped: it may be hostile."""

import itertools
from collections.abc import Iterable
from typing import Any

from raysys.data.facts import Feature, Numbers, Profile
from raysys.data.webpage import Html, empty, own_file, plot, section, shell, table, text, tiles
from raysys.data.wording import number, percent, place, size

_COLOURS = 8
_LOG_RATIO = 20  # kinds of events that differ more than this are told apart on a logarithmic axis alone
_WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONGEST_RECORD = 2_000
_TALL = 5  # bars that one column of a card may hold
_MOST_FILES = 50


def page(facts: Profile) -> str:
    """Return the page as HTML: everything in it is inlined, and scripts that are not its own are not run."""
    style, script = (own_file("raysys.data", name) for name in ("page.css", "page.js"))
    title = f"{facts.project} {facts.version.version}"
    body = f"""{_header(facts)}
<div class="cards">
{"".join(_sections(facts))}
</div>
<footer>{text(facts.path)}, fingerprint {text(facts.version.fingerprint)}</footer>"""
    return shell(title, body, style, script, _figures(facts))


def _figures(facts: Profile) -> dict[str, Any]:
    """Return what the page's script draws: by the name of the plot."""
    lengths, times = facts.lengths, facts.times
    bins = list(itertools.pairwise(lengths.edges))
    found: dict[str, Any] = {
        "lengths": {
            "labels": [f"{low:,}" for low, _ in bins],
            "ranges": [f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}" for low, high in bins],
            "users": lengths.users,
        },
        "popularity": {
            "ranks": [rank for rank, count in facts.popularity.curve if count],
            "counts": [count for _, count in facts.popularity.curve if count],
        },
    }
    if times is not None:
        week = [times.hours_of_week[at : at + 24] for at in range(0, len(times.hours_of_week), 24)]
        found["hours"] = {"days": _WEEK, "counts": week}
        found["days"] = _days(facts)
    return found


def _days(facts: Profile) -> dict[str, Any]:
    times = facts.times
    assert times is not None
    names = [stage.event for stage in sorted(facts.funnel, key=lambda stage: -stage.events)]
    series: list[dict[str, Any]] = [{"name": text(name), "y": times.events[name]} for name in names[: _COLOURS - 1]]
    if rest := names[_COLOURS - 1 :]:
        sums = [sum(counts) for counts in zip(*(times.events[name] for name in rest), strict=True)]
        series.append({"name": f"{len(rest)} further kinds", "y": sums})
    highest = [max(one["y"], default=0) for one in series]
    starts = [{"name": f"{mark} from {start[:10]}", "x": start} for mark, start in times.boundaries.items()]
    log = max(highest) > _LOG_RATIO * max(min(highest), 1)
    return {"x": times.days, "series": series, "boundaries": starts, "log": log}


def _header(facts: Profile) -> str:
    times = facts.times
    span = f"{times.first[:16]} to {times.last[:16]} UTC" if times else "no times in the log"
    parent = f", extends {facts.version.parent}" if facts.version.parent else ""
    forgotten = f", {facts.forgotten:,} users forgotten" if facts.forgotten else ""
    figures = (
        (f"{facts.users:,}", "users"),
        (f"{facts.items:,}", "items"),
        (f"{facts.events:,}", "events"),
        (percent(facts.density), "of all pairs of user and item"),
        (number(facts.lengths.percentiles.get("p50", 0.0)), "history events of the median user"),
        (percent(sum(facts.rows["rejected"].values()) / max(facts.rows["read"], 1)), "of the rows rejected"),
    )
    return (
        f"<header><h1>{text(facts.project)} <span>{text(facts.version.version)}</span></h1>"
        f"<p>{text(span)}; written {text(facts.version.written)} UTC{text(parent + forgotten)}</p></header>"
        f"{tiles(figures)}"
    )


def _sections(facts: Profile) -> Iterable[str]:
    yield section("From rows to events", "What became of every row that was read.", _rows(facts))
    note = "Pairs of user and item that have each kind of event, and the share of the pairs of the stage above."
    yield section("Funnel", note, _bars(_stages(facts)))
    times = facts.times
    if times is None:
        nothing = empty("The log has no times: there is nothing to show by day or by hour.")
        yield section("Events over time", "", nothing, wide=True)
    else:
        unit = "day" if times.days_per_bin == 1 else f"{times.days_per_bin} days"
        note = "By kind of event, UTC" + ("; dashed where the parts of the split begin." if times.boundaries else ".")
        yield _plot("days", f"Events per {unit}", note, wide=True)
    yield _plot("lengths", "History lengths", "History events per user in training; two bars per doubling.")
    top = facts.popularity.share_of_top
    shares = ", ".join(f"the top {name.replace('%', ' %')} take {percent(share)}" for name, share in top.items())
    note = f"Of the history events in training {shares}; Gini {facts.popularity.gini:.2f}."
    yield _plot("popularity", "Popularity of items", f"{note} {facts.popularity.once:,} items were seen once.")
    if times is not None:
        yield _plot("hours", "Activity by hour of the week", "Events of all kinds, UTC.")
    yield _labels(facts)
    yield section("Events by split", "", _splits(facts))
    if facts.categories:
        rows = [(n, f"{c.values:,}", percent(c.known_share), ", ".join(c.top)) for n, c in facts.categories.items()]
        header = ("category", "values", "known", "most frequent")
        yield section("Categories of the context", "", table(header, rows, numeric=(1, 2)))
    for title, found in (("Item features", facts.item_features), ("User features", facts.user_features)):
        if found:
            yield section(title, "How many have a known value.", _bars(_coverage(found)), wide=len(found) > _TALL)
    yield section("Rejected rows, for example", "", _rejected(facts), wide=True)
    yield section("Files read", "", _files(facts), wide=True)
    if len(facts.versions) > 1:
        yield section("Versions", "", _versions(facts), wide=True)


def _plot(name: str, title: str, note: str, wide: bool = False) -> str:
    return section(title, note, plot(name), wide)


def _bars(bars: Iterable[tuple[str, str, float, str]], kind: str = "") -> str:
    """Draw (name, value, share of the width, remark) rows; all texts are escaped here."""
    rows = "".join(
        f'<div class="bar"><b>{text(name)}</b><span class="value">{text(value)}</span>'
        f'<div class="track"><i class="{kind}" style="width:{100 * min(max(share, 0.0), 1.0):.2f}%"></i></div>'
        + (f"<small>{text(remark)}</small></div>" if remark else "</div>")
        for name, value, share, remark in bars
    )
    return f'<div class="bars">{rows}</div>'


def _rows(facts: Profile) -> str:
    rows, read = facts.rows, max(facts.rows["read"], 1)
    sums = {"kept": rows["kept"], "rejected": sum(rows["rejected"].values()), "cleaned": sum(rows["cleaned"].values())}
    parts = "".join(f'<i class="{name}" style="width:{100 * n / read:.2f}%"></i>' for name, n in sums.items() if n)
    told = ", ".join(f"{count:,} {name}" for name, count in sums.items())
    body = (
        f'<div class="bar"><b>{rows["read"]:,} rows read</b><span class="value">{percent(sums["kept"] / read)} kept'
        f'</span><div class="track">{parts}</div><small>{told}</small></div>'
    )
    largest = max([*rows["rejected"].values(), *rows["cleaned"].values()], default=1)
    for what, nothing in (("rejected", "Nothing was rejected."), ("cleaned", "Nothing was cleaned away.")):
        reasons = [(f"{what}: {name}", f"{n:,}", n / largest, "") for name, n in rows[what].items()]
        body += _bars(reasons, what) if reasons else empty(nothing)
    return f'<div class="bars">{body}</div>'


def _stages(facts: Profile) -> Iterable[tuple[str, str, float, str]]:
    most = max((stage.pairs for stage in facts.funnel), default=1) or 1
    for stage in facts.funnel:
        reached = "" if stage.share_of_previous is None else f"{percent(stage.share_of_previous)} of those above"
        is_token = "" if stage.event in facts.history else ", not in the history"
        remark = f"{stage.pairs:,} pairs, {stage.events:,} events of {stage.users:,} users{is_token}"
        yield stage.event, reached, stage.pairs / most, remark


def _labels(facts: Profile) -> str:
    bars = []
    for name, one in {**facts.labels, **facts.numbers}.items():
        mean = one.mean if one.training_mean is None else one.training_mean
        width = 0.0 if mean is None else _within(mean, one)
        kinds = ", ".join(f"{percent(share)} of {kind}" for kind, share in one.known_share_by_event.items())
        span = f"from {number(one.low)} to {number(one.high)}, known in {kinds}" if kinds else "known in no event"
        bars.append((name, f"mean {number(mean)}", width, span))
    note = "The bar ends where the mean (of labels: in training) lies between the lowest and the highest value."
    if not bars:
        return section("Labels and numbers", "", empty("The events carry no labels and no numbers."))
    return section("Labels and numbers", note, _bars(bars), wide=len(bars) > _TALL)


def _within(mean: float, one: Numbers) -> float:
    if one.low is None or one.high is None or one.high <= one.low:
        return 0.0
    return (mean - one.low) / (one.high - one.low)


def _splits(facts: Profile) -> str:
    names = list(dict.fromkeys(split for stage in facts.funnel for split in stage.by_split))
    rows = [
        (stage.event, f"{stage.events:,}", *(f"{stage.by_split.get(name, 0):,}" for name in names), f"{stage.users:,}")
        for stage in facts.funnel
    ]
    return table(("event", "events", *names, "users"), rows, numeric=range(1, len(names) + 3))


def _coverage(found: dict[str, Feature]) -> Iterable[tuple[str, str, float, str]]:
    for name, one in found.items():
        counted = f", {one.values:,} {'dimensions' if one.kind == 'vector' else 'values'}" if one.values else ""
        yield name, percent(one.covered), one.covered, one.kind + counted


def _rejected(facts: Profile) -> str:
    if not facts.rejected_examples:
        return empty("No row broke a rule.")
    rows = [
        (rule, place(example), _record(example["record"] or "(not kept)"))
        for rule, examples in facts.rejected_examples.items()
        for example in examples
    ]
    return table(("rule", "where", "record"), rows, kind="records")


def _record(record: str) -> Html:
    return Html(f"<code>{text(record[:_LONGEST_RECORD])}</code>")


def _files(facts: Profile) -> str:
    rows = [(one["path"], size(one["size"]), str(one["modified"])[:19].replace("T", " ")) for one in facts.files]
    more = empty(f"and {len(rows) - _MOST_FILES:,} more") if len(rows) > _MOST_FILES else ""
    return table(("file", "size", "modified"), rows[:_MOST_FILES], numeric=(1, 2)) + more


def _versions(facts: Profile) -> str:
    header = ("version", "written (UTC)", "users", "items", "events", "files", "parent", "fingerprint")
    rows = [
        (
            v.version,
            v.written,
            f"{v.users:,}",
            f"{v.items:,}",
            f"{v.events:,}",
            f"{v.files:,}",
            v.parent or "",
            v.fingerprint[:12],
        )
        for v in facts.versions
    ]
    return table(header, rows, numeric=(2, 3, 4, 5))
