"""Item encoders. To add one: write `items/x.py` with a class derived from ItemEncoder, and add its line here."""

from raysys.model.items.encoder import ItemEncoder
from raysys.model.items.id import IdEmbedding
from raysys.model.items.text import TextVectors

ITEM_ENCODERS: dict[str, type[ItemEncoder]] = {"id": IdEmbedding, "text": TextVectors}
