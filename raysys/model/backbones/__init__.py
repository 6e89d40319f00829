"""Backbones. To add one: write `backbones/x.py` with a class derived from Backbone, and add its line here."""

from raysys.model.backbones.backbone import Backbone
from raysys.model.backbones.bert4rec import BERT4Rec
from raysys.model.backbones.gru import GRU
from raysys.model.backbones.hstu import HSTU
from raysys.model.backbones.lightgcn import LightGCN
from raysys.model.backbones.ligr import LiGR
from raysys.model.backbones.mf import MF
from raysys.model.backbones.sasrec import SASRec

BACKBONES: dict[str, type[Backbone]] = {
    "bert4rec": BERT4Rec,
    "gru": GRU,
    "hstu": HSTU,
    "lightgcn": LightGCN,
    "ligr": LiGR,
    "mf": MF,
    "sasrec": SASRec,
}
