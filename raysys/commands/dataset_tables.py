"""The facts of a dataset as short tables for a terminal. What comes from logs is shown, never obeyed."""

from collections.abc import Container, Iterable, Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raysys.data.facts import Feature, Numbers, Profile, VersionFacts
from raysys.data.profile import MARKS
from raysys.data.wording import number, percent, place, printable, size

_BARS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 72
_MOST_FILES = 5
_LONGEST_RECORD = 300


def grid(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], left: Container[int] = (0,)) -> Group:
    """Return a titled table; the columns at `left` are aligned to the left, the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for at, column in enumerate(header):
        table.add_column(printable(column), justify="left" if at in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return Group(*([Text(title, style="bold")] if title else []), table, "")


def profile_tables(facts: Profile) -> Iterator[RenderableType]:
    """Yield what `raysys data show` prints, in order."""
    yield from _head(facts)
    yield _funnel(facts)
    yield from _times(facts)
    yield _lengths(facts)
    yield _popularity(facts)
    if facts.labels:
        yield _numbers("labels", facts.labels)
    if facts.numbers:
        yield _numbers("numbers of the context", facts.numbers)
    if facts.categories:
        cells = ([name, f"{c.values:,}", percent(c.known_share), _top(c.top)] for name, c in facts.categories.items())
        yield grid("categories of the context", ("category", "values", "known", "most frequent"), cells, (0, 3))
    for title, found in (("item features", facts.item_features), ("user features", facts.user_features)):
        if found:
            yield _features(title, found)
    yield from _rejected(facts)
    yield _files(facts)
    if len(facts.versions) > 1:
        yield version_table(facts.versions)


def version_table(found: Sequence[VersionFacts]) -> Group:
    """Return a line per version."""
    header = ("version", "written (UTC)", "users", "items", "events", "files", "parent", "fingerprint")
    return grid(
        "versions",
        header,
        (
            (
                one.version,
                one.written,
                f"{one.users:,}",
                f"{one.items:,}",
                f"{one.events:,}",
                f"{one.files:,}",
                one.parent or "",
                one.fingerprint[:12],
            )
            for one in found
        ),
        (0, 1, 6, 7),
    )


def _head(facts: Profile) -> Iterator[RenderableType]:
    name = Text(printable(f"{facts.project} {facts.version.version}"), style="bold")
    yield name.append(f"  {facts.version.fingerprint[:12]}, written {facts.version.written} UTC", style="not bold")
    yield Text(printable(facts.path) + "\n")
    counts = [f"{facts.users:,}", f"{facts.items:,}", f"{facts.events:,}", percent(facts.density)]
    span = [facts.times.first, facts.times.last] if facts.times else ["no times", ""]
    yield grid(
        "", ("users", "items", "events", "density", "first event (UTC)", "last event (UTC)"), [counts + span], ()
    )
    rows = [("read", facts.rows["read"]), ("kept", facts.rows["kept"])]
    for what in ("rejected", "cleaned"):
        rows += [(f"{what}: {reason}", count) for reason, count in facts.rows[what].items()]
    read = max(facts.rows["read"], 1)
    yield grid("rows", ("", "rows", "share"), ((name, f"{count:,}", percent(count / read)) for name, count in rows))


def _funnel(facts: Profile) -> Group:
    splits = [name for name in MARKS.values() if any(name in stage.by_split for stage in facts.funnel)]
    header = ("event", "history", "events", *splits, "users", "user-item pairs", "of the row above")
    rows = []
    for stage in facts.funnel:
        token = "yes" if stage.event in facts.history else "no"
        counts = [f"{number:,}" for number in (stage.events, *(stage.by_split.get(split, 0) for split in splits))]
        share = "" if stage.share_of_previous is None else percent(stage.share_of_previous)
        rows.append((stage.event, token, *counts, f"{stage.users:,}", f"{stage.pairs:,}", share))
    return grid("events", header, rows, (0, 1))


def _times(facts: Profile) -> Iterator[RenderableType]:
    times = facts.times
    if times is not None:
        unit = "day" if times.days_per_bin == 1 else f"{times.days_per_bin} days"
        series = {stage.event: times.events[stage.event] for stage in facts.funnel}
        rows = [(event, f"{max(counts):,}", spark(counts)) for event, counts in series.items()]
        rows += [(f"{mark} from", "", start) for mark, start in times.boundaries.items()]
        yield grid(f"events per {unit}", ("event", "at most", f"{times.days[0]} to {times.last[:10]}"), rows, (0, 2))


def _lengths(facts: Profile) -> Group:
    lengths = facts.lengths
    header = ("mean", *lengths.percentiles)
    numbers = [f"{lengths.mean:,.1f}", *(f"{value:,.0f}" for value in lengths.percentiles.values())]
    over = f"0 to {lengths.edges[-1] - 1:,}, two bars per doubling" if lengths.edges else ""
    row = [*numbers, spark(lengths.users)]
    return grid("history events per user in training", (*header, f"users with {over}"), [row], (len(header),))


def _popularity(facts: Profile) -> Group:
    found = facts.popularity
    header = [*(f"top {share}" for share in found.share_of_top), "Gini", "items seen once", "never"]
    row = [*(percent(share) for share in found.share_of_top.values()), f"{found.gini:.3f}"]
    title = "share of the history events in training that the most popular items take"
    return grid(title, header, [[*row, f"{found.once:,}", f"{found.never:,}"]], ())


def _numbers(title: str, found: dict[str, Numbers]) -> Group:
    trained = any(one.training_mean is not None for one in found.values())
    header = ("name", *(["training mean"] if trained else []), "mean", "deviation", "lowest", "highest", "known in")
    last = len(header) - 1
    rows = []
    for name, one in found.items():
        values = [*([one.training_mean] if trained else []), one.mean, one.deviation, one.low, one.high]
        shares = ", ".join(f"{percent(share)} of {kind}" for kind, share in one.known_share_by_event.items())
        rows.append((name, *("" if value is None else number(value) for value in values), shares or "no event"))
    return grid(title, header, rows, (0, last))


def _features(title: str, found: dict[str, Feature]) -> Group:
    rows = [
        (name, one.kind, "" if one.values is None else f"{one.values:,}", percent(one.covered))
        for name, one in found.items()
    ]
    return grid(title, ("name", "kind", "values", "known for"), rows, (0, 1))


def _rejected(facts: Profile) -> Iterator[RenderableType]:
    if facts.rejected_examples:
        yield Text("rejected rows, for example", style="bold")
    for rule, examples in facts.rejected_examples.items():
        for example in examples:
            text = f"{rule}: {place(example)}: {example['record'] or '(not kept)'}"
            yield Text(printable(text if len(text) <= _LONGEST_RECORD else text[:_LONGEST_RECORD] + "..."))
    if facts.rejected_examples:
        yield ""


def _files(facts: Profile) -> Group:
    rows = [(one["path"], size(one["size"]), str(one["modified"])[:19].replace("T", " ")) for one in facts.files]
    total = f"{len(rows):,} file{'s' if len(rows) != 1 else ''}, {size(sum(one['size'] for one in facts.files))}"
    if len(rows) > _MOST_FILES:
        rows = [*rows[:_MOST_FILES], (f"and {len(rows) - _MOST_FILES:,} more (--json names all)", "", "")]
    return grid(f"read from {total}", ("file", "size", "modified"), rows)


def _top(values: dict[str, int]) -> str:
    return ", ".join(f"{value} {count:,}" for value, count in values.items())


def spark(counts: Sequence[int], width: int = _SPARK_WIDTH) -> str:
    """Return a row of bars; neighbours are summed where there are more numbers than places."""
    if not counts:
        return ""
    step = -(-len(counts) // width)
    sums = [sum(counts[at : at + step]) for at in range(0, len(counts), step)]
    highest = max(max(sums), 1)
    return "".join(" " if not one else _BARS[min(7, one * 8 // highest)] for one in sums)
