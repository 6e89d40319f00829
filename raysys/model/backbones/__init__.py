"""Backbones. To add one: write `backbones/x.py` with a class derived from Backbone, and add its line here."""

from raysys.model.backbones.backbone import Backbone
from raysys.model.backbones.gru import GRU
from raysys.model.backbones.sasrec import SASRec

BACKBONES: dict[str, type[Backbone]] = {"gru": GRU, "sasrec": SASRec}
