"""Kinds of exports. To add one: write `export/x.py` with a class derived from Kind, and add its line here."""

from serving.export.bf16 import BF16
from serving.export.compiled import Compiled
from serving.export.int8 import Int8
from serving.export.kind import Kind
from serving.export.onnx import Onnx
from serving.export.pruned import Pruned

KINDS: dict[str, type[Kind]] = {"pruned": Pruned, "bf16": BF16, "int8": Int8, "compiled": Compiled, "onnx": Onnx}
