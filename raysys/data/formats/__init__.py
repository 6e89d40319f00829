"""Input formats. To add one: write `formats/x.py` with a class derived from EventFormat, and add its line here."""

from raysys.data.formats.delimited import Delimited
from raysys.data.formats.jsonl import JsonLines
from raysys.data.formats.movielens import MovieLens
from raysys.data.formats.parquet import Parquet
from raysys.data.formats.sequences import Sequences
from raysys.data.formats.source import EventFormat
from raysys.data.formats.synthetic import Synthetic

FORMATS: dict[str, type[EventFormat]] = {
    "delimited": Delimited,
    "jsonl": JsonLines,
    "movielens": MovieLens,
    "parquet": Parquet,
    "sequences": Sequences,
    "synthetic": Synthetic,
}
