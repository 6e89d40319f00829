"""How the facts of a dataset are worded for people, on a terminal and on a page."""

from typing import Any


def printable(text: str) -> str:
    """Return a text from a log with the characters escaped that a terminal or a browser would act on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def percent(share: float) -> str:
    """Return a share in percent, with more digits where it is small; only all of something is 100 %."""
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.3g} %" if share < 0.1 or share == 1 else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """Return a number with as many digits as a person wants; nothing for None."""
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def size(count: float) -> str:
    """Return a number of bytes in the unit that keeps it short."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def place(example: dict[str, Any]) -> str:
    """Return where a rejected row stood: file, and row or byte."""
    name = str(example["source"]).rpartition("/")[2]
    if example["row"] is not None:
        return f"{name}, row {example['row']:,}"
    return f"{name}, byte {example['offset']:,}" if example["offset"] is not None else name
