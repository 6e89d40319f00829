"""Items + backbone = Recommender: histories in, states out. Tasks read the states; this file knows no task.

Legend of shapes, here and wherever tensors carry a suffix:
    B  users in the batch     L  history positions     C  targets per user     D  width
    N  flat rows              V  vocabulary (PAD and UNKNOWN included)          K  recommendations
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

import pyarrow as pa
import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from raysys.component import FrozenConfig, OneOf, kind_of, name_as_kind
from raysys.data.batches import History, Targets
from raysys.data.columns import ColumnSchema
from raysys.data.dataset import Dataset, Manifest
from raysys.data.quantiles import training_quantiles
from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from raysys.model.backbones import BACKBONES
from raysys.model.backbones.backbone import ModelContext
from raysys.model.backbones.per_user import PerUser
from raysys.model.fields import NUM_QUANTILES
from raysys.model.items import ITEM_ENCODERS
from raysys.model.items.encoder import ItemEncoder, ItemVectors
from raysys.model.items.new import NewItems
from raysys.model.pairs import ColumnSchemas, FieldsConfig, ItemColumns, PairEncoder, Pairs
from raysys.model.sharing import SHARINGS, Shared, SharingContext
from raysys.model.target_encoding import TargetEncoding
from raysys.model.tokens import TokenFields, TokensConfig
from raysys.model.totals import HistoryTotals

ItemsConfig = dict[str, Annotated[FrozenConfig, OneOf(ITEM_ENCODERS)]]
BackboneConfig = Annotated[FrozenConfig, OneOf(BACKBONES, default="sasrec")]


class ModelConfig(FrozenConfig):
    """The shared model under all tasks."""

    width: int = Field(64, ge=1)
    """D: size of item vectors and states."""
    max_length: int = Field(50, ge=1)
    """L: how many of the newest history events a state may know."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Of the input and inside the backbone's residual branches."""
    items: Annotated[ItemsConfig, BeforeValidator(name_as_kind)] = Field(
        {"id": {}}, min_length=1, validate_default=True
    )
    """Item encoders by name; their vectors are added up."""
    unit_items: bool = False
    """Scale item vectors to length 1, so that no item is favoured by the length of its vector. Goes with a task's
    `temperature`; on sparse logs it takes fewer epochs and ends higher."""
    tokens: TokensConfig = TokensConfig()
    backbone: BackboneConfig = Field({"kind": "sasrec"}, validate_default=True)
    fields: FieldsConfig = FieldsConfig()
    sharing: Annotated[FrozenConfig, OneOf(SHARINGS, default="shared_bottom")] = Field(
        {"kind": "shared_bottom"}, validate_default=True
    )
    """What point-wise tasks share between states and their own towers; retrieval tasks go without."""


@dataclass(frozen=True)
class Encoded:
    """States of a batch, and the only way from a target to a state."""

    states_BLD: Tensor
    start_BD: Tensor
    """State before the first token: learned, or the user's own where the backbone keeps users."""
    items: ItemVectors
    history: History
    pair_head: "PairHead | None" = None
    new: NewItems | None = None
    """What point-wise tasks may be asked for beyond the vocabulary."""
    _shared: dict[int, tuple[Targets, Shared]] = field(default_factory=dict, repr=False, compare=False)
    _labelled: dict[int, tuple[Targets, Targets]] = field(default_factory=dict, repr=False, compare=False)

    def state_before(self, anchor_BC: Tensor, valid_BC: Tensor | None = None) -> Tensor:
        """Return states [B, C, D] at the anchors of targets, -1 giving the start state; [N, D] of the valid ones only.

        With `valid_BC`, rows come in the order of `valid_BC.nonzero()` and nothing is computed for the others.
        """
        rows, anchors = places(anchor_BC, valid_BC)
        states = self.states_BLD[rows, anchors.clamp(min=0)]
        return torch.where((anchors >= 0).unsqueeze(-1), states, self.start_BD[rows])

    def item_before(self, anchor_BC: Tensor, valid_BC: Tensor | None = None) -> Tensor:
        """Return the vectors of the items at the anchors, as `state_before` returns states."""
        rows, anchors = places(anchor_BC, valid_BC)
        vectors = self.items(self.history.items_BL[rows, anchors.clamp(min=0)])
        return torch.where((anchors >= 0).unsqueeze(-1), vectors, self.start_BD[rows])

    def in_vocabulary(self, items: Tensor) -> Tensor:
        """Return indices with UNKNOWN in place of new items: their row in tables with one per item."""
        return items if self.new is None else self.new.hidden(items)

    def nothing(self) -> Tensor:
        """Return 0 with a gradient of 0 for the backbone: for losses of items alone, so that no rank waits for it."""
        return 0.0 * (self.states_BLD.sum() + self.start_BD.sum())

    def labelled(self, targets: Targets) -> Targets:
        """Return the targets of which some label is known: losses need nothing of the others; made once."""
        if id(targets) not in self._labelled:
            known = [labels_BC.isfinite() for labels_BC in targets.labels.values()]
            mask_BC = targets.mask_BC & torch.stack(known).any(0) if known else targets.mask_BC
            self._labelled[id(targets)] = targets, replace(targets, mask_BC=mask_BC)
        return self._labelled[id(targets)][1]

    def shared(self, targets: Targets) -> Shared:
        """Return what point-wise tasks get of the targets, rows in the order of `mask_BC.nonzero()`; made once."""
        if id(targets) not in self._shared:
            assert self.pair_head is not None, "built without point-wise tasks"
            self._shared[id(targets)] = targets, self.pair_head(self, targets)
        return self._shared[id(targets)][1]


def places(anchor_BC: Tensor, valid_BC: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (row, anchor) of every target, [B, C] each; of the valid ones only, [N] each."""
    if valid_BC is None:
        return torch.arange(len(anchor_BC), device=anchor_BC.device).unsqueeze(1).expand_as(anchor_BC), anchor_BC
    rows, columns = valid_BC.nonzero(as_tuple=True)
    return rows, anchor_BC[rows, columns]


class ItemTower(nn.Module):
    """Item encoders fused by sum: index -> vector."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.unit = config.unit_items
        encoders: dict[str, ItemEncoder] = {
            name: ITEM_ENCODERS[kind_of(part)](part, vocabulary_size, config.width)
            for name, part in config.items.items()
        }
        self.encoders = nn.ModuleDict(encoders)

    def observe(self, dataset: Dataset) -> None:
        """Let the encoders take what they need of the training period."""
        for encoder in self.encoders.values():
            encoder.observe(dataset)  # type: ignore[operator]

    def forward(self, items: Tensor) -> Tensor:
        """Return f32[*, D] for i64[*]."""
        return self._fused([encoder(items) for encoder in self.encoders.values()])

    def table(self) -> Tensor:
        """Return the vectors of all real items [V - 2, D]; row i is item i + 2."""
        return self._fused([encoder.table()[FIRST_ITEM:] for encoder in self.encoders.values()])  # type: ignore[operator]

    def of_new(self, rows: pa.Table) -> Tensor:
        """Return the vectors [N, D] of items that training never saw, from rows like those of a catalog.

        Raises:
            UserError: the run knows items by nothing but ids.
        """
        if set(self.encoders) == {"id"}:
            raise UserError(
                "model.items: the run knows items by their ids alone, so new ones have no vectors; train with "
                "`items: {id: {}, text: {}}` (docs/serving-items.md)"
            )
        return self._fused([encoder.of_new(rows) for encoder in self.encoders.values()])  # type: ignore[operator]

    def _fused(self, parts: list[Tensor]) -> Tensor:
        vectors = sum(parts[1:], start=parts[0])
        return F.normalize(vectors, dim=-1) if self.unit else vectors


class PairHead(nn.Module):
    """From targets to what the towers of point-wise tasks get: the pairs are put together, then shared."""

    def __init__(self, config: ModelConfig, manifest: Manifest, tasks: tuple[str, ...]) -> None:
        super().__init__()
        context = ColumnSchema(numbers=manifest.numbers, categories=manifest.categories)
        schemas = ColumnSchemas(manifest.user_columns, manifest.item_columns, context)
        size, kind = manifest.num_items + FIRST_ITEM, SHARINGS[kind_of(config.sharing)]
        self.columns = ItemColumns(schemas.items if "items" in config.fields.of else ColumnSchema(), size)
        wanted = config.fields.target_encoding
        of_context = context if "context" in config.fields.of else ColumnSchema()
        encoded = (self.columns.schema, of_context, size, manifest.labels)
        self.encoding = None if wanted is None else TargetEncoding(wanted, *encoded)
        counted = len(manifest.event_names), config.tokens.labels
        self.totals = HistoryTotals(*counted) if config.fields.totals else None
        num_statistics = sum(part.width for part in (self.encoding, self.totals) if part is not None)
        computed = not BACKBONES[kind_of(config.backbone)].per_user
        parts = (config.fields, schemas, config.width, size, num_statistics, computed)
        self.encoder = PairEncoder(*parts)
        self.own = nn.ModuleDict({task: PairEncoder(*parts) for task in tasks if kind.own_fields})
        seen = SharingContext(self.encoder.out_width, tasks)
        self.sharing = kind(config.sharing, seen)  # type: ignore[arg-type]

    def observe(self, dataset: Dataset) -> None:
        """Take features of items and quantiles of numbers."""
        self.columns.observe(dataset.catalog)
        if self.encoding is not None:
            self.encoding.observe(dataset, self.columns(torch.arange(self.columns.vocabulary_size)).categories)
        if self.totals is not None:
            self.totals.observe(dataset)
        for encoder in (self.encoder, *self.own.values()):
            encoder.observe(training_quantiles(dataset, NUM_QUANTILES))  # type: ignore[operator]

    def forward(self, encoded: Encoded, targets: Targets) -> Shared:
        """Return a view of each valid target for each task."""
        rows_N, columns_N = targets.mask_BC.nonzero(as_tuple=True)
        asked_N, history = targets.items_BC[rows_N, columns_N], encoded.history
        items_N = encoded.in_vocabulary(asked_N)
        columns, vectors_ND = self.columns(items_N), encoded.items(items_N)
        if encoded.new is not None:
            columns, vectors_ND = encoded.new.filled_in(asked_N, columns, vectors_ND)
        context = targets.context.at(rows_N, columns_N)
        statistics = [encoded.states_BLD.new_zeros(len(items_N), 0)]
        if self.encoding is not None:
            users_N = history.users_B[rows_N]
            statistics.append(self.encoding(items_N, columns.categories, context.categories, users_N))
        if self.totals is not None:
            statistics.append(self.totals(history, rows_N, targets.anchor_BC[rows_N, columns_N]))
        pairs = Pairs(
            states_ND=encoded.state_before(targets.anchor_BC, targets.mask_BC),
            vectors_ND=vectors_ND,
            items_N=items_N,
            rows_N=rows_N,
            num_users=len(targets.mask_BC),
            users=history.features,
            items=columns,
            context=context,
            statistics_NF=torch.cat(statistics, dim=-1),
        )
        told = {"": self.encoder(pairs)} | {task: encoder(pairs) for task, encoder in self.own.items()}
        shared: Shared = self.sharing(told)
        return shared


class Recommender(nn.Module):
    """Encodes histories into states."""

    def __init__(self, config: ModelConfig, manifest: Manifest, pair_tasks: tuple[str, ...] = ()) -> None:
        """Build for a dataset, with a head for point-wise tasks where there are some.

        Raises:
            ValueError: parts do not fit each other or the dataset.
        """
        super().__init__()
        tokens = TokenFields(config.tokens, manifest, config.width) if config.tokens else None
        context = ModelContext(config.width, config.max_length, config.dropout, manifest.num_users, tokens)
        self.items = ItemTower(config, manifest.num_items + FIRST_ITEM)
        self.backbone = BACKBONES[kind_of(config.backbone)](config.backbone, context)
        if tokens is not None and self.backbone.per_user:
            raise ValueError(f"model.tokens: the backbone {kind_of(config.backbone)} looks at items alone")
        self._token_labels = config.tokens.labels
        self.start_D = None if self.backbone.per_user else nn.Parameter(torch.randn(config.width) * 0.02)
        self.pair_head = PairHead(config, manifest, pair_tasks) if pair_tasks else None

    @property
    def reads_columns(self) -> bool:
        """Whether batches have to bring the context of events and the features of users."""
        return self.pair_head is not None or self.backbone.token_fields is not None

    @property
    def reads_tokens(self) -> bool:
        """Whether users whom training met are told by their tokens; others are in any case."""
        return not self.backbone.per_user or (self.pair_head is not None and self.pair_head.totals is not None)

    @property
    def reads_labels(self) -> tuple[str, ...]:
        """Labels of tokens that batches have to bring."""
        return self._token_labels

    def observe(self, dataset: Dataset) -> None:
        """Let the parts take what they need of the training period."""
        self.items.observe(dataset)
        self.backbone.observe(dataset)
        if self.pair_head is not None:
            self.pair_head.observe(dataset)

    def vectors(self) -> ItemVectors:
        """Return the item vectors that states are compared with."""
        return self.backbone.vectors(self.items)

    def forward(self, history: History) -> Encoded:
        """Return the states after each token, [B, L, D]."""
        vectors = self.vectors()
        if isinstance(self.backbone, PerUser):
            states_BLD, start_BD = self.backbone.with_start(history, vectors)
        else:
            assert self.start_D is not None, "only those per user begin with a state of their own"
            states_BLD = self.backbone(history, vectors)
            start_BD = self.start_D.expand(len(states_BLD), -1)
        return Encoded(states_BLD, start_BD, vectors, history, self.pair_head)
