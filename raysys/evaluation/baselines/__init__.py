"""Baselines beside a run. To add one: write `baselines/x.py` with a class derived from Baseline, and add its line."""

from raysys.evaluation.baselines.als import ALS
from raysys.evaluation.baselines.baseline import Baseline
from raysys.evaluation.baselines.itemknn import ItemKNN
from raysys.evaluation.baselines.popularity import Popularity
from raysys.evaluation.baselines.userknn import UserKNN

BASELINES: dict[str, type[Baseline]] = {"popularity": Popularity, "itemknn": ItemKNN, "userknn": UserKNN, "als": ALS}
