"""Items by their texts: which texts are read, what the vectors are, and that nobody encodes twice."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from raysys.configfile import build
from raysys.data.catalog import Catalog
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from raysys.model.items import sentences, text
from raysys.model.items.text import TextVectors, item_texts, whitened
from raysys.model.recommender import ModelConfig, Recommender

WORDS = ["red", "blue", "green", "car", "boat", "ball", "big", "small"]
ITEMS = 12


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A real BERT with random weights that knows eight words."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *WORDS]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=15, **size)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def dataset(tmp_path):
    """Twelve items with titles of two words and a list of categories; the last has neither."""
    log = tmp_path / "log.jsonl"
    events = [{"u": f"u{at // 7}", "i": f"i{at % ITEMS:02d}", "t": 1_700_000_000 + at} for at in range(63)]
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    items = [
        {"i": f"i{at:02d}", "title": f"{WORDS[at % 3]} {WORDS[3 + at % 5]}", "kinds": ["toy", WORDS[at % 2]]}
        for at in range(ITEMS - 1)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    node = {
        "project": "toys",
        "sources": [
            {
                "path": str(log),
                "format": "jsonl",
                "event": "view",
                "columns": {"user_id": "u", "item_id": "i", "timestamp": "t"},
            }
        ],
        "items": {"path": str(tmp_path / "items.jsonl"), "id": "i", "categories": ["kinds"]},
        "split": {"kind": "leave_one_out"},
    }
    return ingest(build(IngestConfig, node, "toys"), tmp_path / "dataset", each=in_process)


def _observed(dataset, width=4, **settings):
    part = TextVectors(TextVectors.Config(**settings), dataset.manifest.num_items + FIRST_ITEM, width)
    part.observe(dataset)
    return part


def test_texts_are_the_columns_in_their_order(dataset):
    texts = dict(
        zip(dataset.vocabulary.item_ids.to_pylist(), item_texts(dataset.catalog, ("title", "kinds")), strict=True)
    )
    assert texts["i00"] == "red car. toy, red"
    assert texts["i11"] == ""
    assert item_texts(dataset.catalog, ("kinds", "title"))[0].startswith("toy, ")


def test_items_of_one_text_have_one_vector_and_those_without_none(dataset, encoder):
    part = _observed(dataset, encoder=encoder, columns=("title",))
    texts = item_texts(dataset.catalog, ("title",))
    vectors = part.vectors_VK[FIRST_ITEM:]
    for one, first in zip(texts, vectors, strict=True):
        for other, second in zip(texts, vectors, strict=True):
            assert torch.allclose(first, second, atol=1e-4) == (one == other)
    assert vectors[texts.index("")].abs().sum() == 0
    assert torch.equal(part.table()[FIRST_ITEM:], part(torch.arange(FIRST_ITEM, len(part.vectors_VK))))


def test_padding_beside_longer_texts_changes_nothing(encoder):
    together = sentences.encode_sentences(["red", "big blue car, small green ball. boat"], encoder, 16)
    assert np.allclose(together[:1], sentences.encode_sentences(["red"], encoder, 16), atol=1e-5)
    cut = sentences.encode_sentences(["big blue car, small green ball"], encoder, 4)
    assert np.allclose(cut, sentences.encode_sentences(["big blue"], encoder, 16), atol=1e-5)  # [CLS] big blue [SEP]


def test_nobody_encodes_twice(dataset, encoder, monkeypatch):
    first = _observed(dataset, encoder=encoder)
    monkeypatch.setattr(text, "encode_sentences", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(first.vectors_VK, _observed(dataset, encoder=encoder).vectors_VK)
    with pytest.raises(pytest.fail.Exception):
        _observed(dataset, encoder=encoder, columns=("kinds",))


def test_whitened_directions_are_even_and_apart():
    generator = np.random.default_rng(0)
    cone = generator.normal(size=(500, 6)) * [9, 5, 3, 1, 0.5, 0] + [50, 0, 0, 0, 0, 0]
    found = whitened(cone.astype(np.float32), 8)
    assert found.shape == (500, 5)  # the sixth direction holds nothing
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    spread = np.cov(found.T)
    assert spread.diagonal().min() > 0.8 * spread.diagonal().max()
    assert np.abs(spread - np.diag(spread.diagonal())).max() < 0.03


def test_weights_carry_the_vectors(dataset, encoder):
    config = ModelConfig(width=8, items={"id": {}, "text": {"encoder": encoder}})
    trained = Recommender(config, dataset.manifest)
    trained.observe(dataset)
    loaded = Recommender(config, dataset.manifest)
    loaded.load_state_dict(trained.state_dict())
    assert torch.equal(trained.items.table(), loaded.items.table())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": ("titel",)}, ["titel", "did you mean 'title'", "kinds"]),
        ({"encoder": "/nowhere"}, ["encoder '/nowhere'", "cannot be loaded"]),
    ],
)
def test_what_is_not_there_is_named(dataset, settings, words):
    with pytest.raises(UserError) as caught:
        _observed(dataset, **settings)
    for word in words:
        assert word in str(caught.value)


def test_items_without_any_text_are_refused():
    nothing = pa.table({"item_id": ["i"], "popularity": [1.0], "title": pa.nulls(1, pa.string())})
    with pytest.raises(UserError, match="no item has a text in title"):
        item_texts(Catalog(nothing), ("title",))


def test_without_a_package_the_way_out_is_told(monkeypatch):
    monkeypatch.setattr(sentences.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"raysys\[text\]"):
        sentences.find_encoder(None)
