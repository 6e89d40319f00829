"""What lists are like beyond being right, and slices: loops over dense scores in plain Python against the arrays."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.catalog import CATEGORY, Catalog
from raysys.data.schema import FIRST_ITEM, PAD, UNKNOWN
from raysys.evaluation.beyond import ItemFacts, coverage, gini, over_all_lists, per_list, popularity_lift
from raysys.evaluation.evaluate import measured
from raysys.evaluation.outcomes import Outcomes
from raysys.evaluation.protocol import EvaluationConfig
from raysys.evaluation.slices import slice_metrics
from raysys.evaluation.summary import estimate

NUM_ITEMS, DEPTHS = 150, (1, 4, 12)
ITEMS = range(FIRST_ITEM, FIRST_ITEM + NUM_ITEMS)


@dataclass
class World:
    """Users and items as plain Python holds them."""

    events: dict[int, int]
    brands: dict[int, str | None]
    tags: dict[int, set[str]]
    profiles: list[list[int]]
    lists: list[list[int]]
    popular: list[list[int]]
    wanted: list[list[int]]


@pytest.fixture(scope="module")
def world() -> World:
    generator = np.random.default_rng(5)
    events = {item: int(generator.integers(0, 30)) for item in ITEMS}
    brands = {item: None if generator.random() < 0.2 else f"b{generator.integers(4)}" for item in ITEMS}
    tags = {item: {f"t{tag}" for tag in generator.integers(0, 90, generator.integers(0, 5))} for item in ITEMS}
    by_events = sorted(ITEMS, key=lambda item: (-events[item], item))
    found = World(events, brands, tags, [], [], [], [])
    for _ in range(60):
        profile = [int(item) for item in generator.integers(UNKNOWN, NUM_ITEMS, generator.choice([0, 1, 4, 5, 12, 55]))]
        found.profiles.append(profile)
        scores = dict(zip(ITEMS, generator.random(NUM_ITEMS) + 0.03 * np.array(list(events.values())), strict=True))
        ranked = sorted((item for item in ITEMS if item not in profile), key=lambda item: -scores[item])
        found.lists.append(ranked[: generator.choice([0, 1, 3, 12, 12, 12])])
        found.popular.append([item for item in by_events if item not in profile][:12])
        anything = [*ranked[:20], *found.popular[-1], UNKNOWN]
        found.wanted.append([int(item) for item in generator.choice(anything, generator.integers(1, 5))])
    return found


@pytest.fixture(scope="module")
def facts(world) -> ItemFacts:
    brands = pa.array([world.brands[item] for item in ITEMS]).dictionary_encode().cast(CATEGORY)
    tags = [sorted(world.tags[item]) for item in ITEMS]
    flat = pa.array([tag for own in tags for tag in own]).dictionary_encode().cast(CATEGORY)
    offsets = pa.array(np.cumsum([0, *(len(own) for own in tags)]), pa.int32())
    columns = {
        "item_id": [f"i{item}" for item in ITEMS],
        "popularity": [world.events[item] for item in ITEMS],
        "title": pa.nulls(NUM_ITEMS, pa.string()),
        "category.brand": brands,
        "category.tag": pa.ListArray.from_arrays(offsets, flat),
    }
    return ItemFacts.of(Catalog(pa.table(columns)))


def padded(lists: list[list[int]]) -> np.ndarray:
    return np.array([[*own, *[PAD] * (12 - len(own))] for own in lists], np.int64)


def outcomes_of(world: World, lists: list[list[int]]) -> Outcomes:
    known = [[item for item in profile if item != UNKNOWN] for profile in world.profiles]
    users = np.arange(len(lists)) * 3 + 1
    return Outcomes(
        users,
        padded(lists),
        np.array([len(profile) for profile in known]),
        np.array([np.mean([world.events[item] for item in profile]) if profile else math.nan for profile in known]),
        np.repeat(users, [len(own) for own in world.wanted]),
        np.array([item for own in world.wanted for item in own]),
    )


@pytest.fixture(scope="module")
def outcomes(world) -> Outcomes:
    return measured(outcomes_of(world, world.lists), EvaluationConfig(k=DEPTHS), "next_item")


# The oracle


def distinct_wanted(wanted: list[int]) -> list[int]:
    return [*{item for item in wanted if item != UNKNOWN}, *[item for item in wanted if item == UNKNOWN]]


def percentile(world: World, item: int) -> float:
    own = world.events[item]
    below = sum(events < own for events in world.events.values())
    ties = sum(events == own for events in world.events.values())
    return (below + ties / 2) / NUM_ITEMS


def apart(world: World, first: int, second: int) -> float | None:
    sets = [world.tags[item] | ({world.brands[item]} - {None}) for item in (first, second)]
    if not all(sets):
        return None
    return 1 - len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def oracle(world: World, user: int, k: int) -> dict[str, float]:
    shown, total = world.lists[user][:k], sum(world.events.values())
    wanted = distinct_wanted(world.wanted[user])
    surprises = [item for item in shown if item in wanted and item not in world.popular[user][:k]]
    pairs = [apart(world, a, b) for a, b in itertools.combinations(shown, 2)]
    return {
        f"novelty@{k}": mean([-math.log2(max(world.events[item], 1) / total) for item in shown]),
        f"popularity@{k}": mean([percentile(world, item) for item in shown]),
        f"serendipity@{k}": len(surprises) / len(wanted),
        f"diversity@{k}": mean([pair for pair in pairs if pair is not None]),
    }


def test_lists_are_measured_as_by_hand(world, outcomes, facts):
    found = per_list(outcomes, facts, padded(world.popular), DEPTHS)
    surprising = 0.0
    for k in DEPTHS:
        for user in range(len(world.lists)):
            expected = oracle(world, user, k)
            surprising += expected[f"serendipity@{k}"]
            for name, value in expected.items():
                assert found[name][user] == pytest.approx(value, abs=1e-6, nan_ok=True), (name, user)
    assert set(found) == {name for k in DEPTHS for name in oracle(world, 0, k)}
    assert surprising > 1, "the test must have something to find"


def test_popularity_surprises_nobody(world, facts):
    outcomes = outcomes_of(world, world.popular)
    found = per_list(outcomes, facts, padded(world.popular), DEPTHS)
    assert not any(found[f"serendipity@{k}"].any() for k in DEPTHS)


def test_without_categories_there_is_no_diversity(world, outcomes, facts):
    found = per_list(outcomes, replace(facts, categories_VC=None), padded(world.popular), DEPTHS)
    assert not [name for name in found if "diversity" in name]
    assert ItemFacts.of(Catalog(pa.table({"item_id": ["a"], "popularity": [1], "title": ["A"]}))).categories_VC is None


@pytest.mark.parametrize("k", DEPTHS)
def test_popularity_lift_is_the_ratio_of_group_means(world, outcomes, facts, k):
    shown, profile = [], []
    for user, own in enumerate(world.lists):
        known = [world.events[item] for item in world.profiles[user] if item != UNKNOWN]
        if own and known and sum(known):
            shown.append(mean([world.events[item] for item in own[:k]]))
            profile.append(mean(known))
    expected = mean(shown) / mean(profile) - 1
    assert popularity_lift(outcomes, facts, k).mean == pytest.approx(expected, abs=1e-9)
    config = EvaluationConfig(k=DEPTHS, resamples=100)
    found = estimate(facts, config, {"x": outcomes})["x"][f"next_item.popularity_lift@{k}"]
    assert found.mean == pytest.approx(expected, abs=1e-9)
    assert found.low < expected < found.high
    assert found.count == len(shown)


@pytest.mark.parametrize("k", DEPTHS)
def test_coverage_and_gini_are_over_all_lists(world, outcomes, k):
    counts = dict.fromkeys(ITEMS, 0)
    for own in world.lists:
        for item in own[:k]:
            counts[item] += 1
    values = list(counts.values())
    gaps = sum(abs(a - b) for a in values for b in values)
    found = over_all_lists(outcomes.items_UK, NUM_ITEMS, k)
    assert found[f"gini@{k}"].mean == pytest.approx(gaps / (2 * NUM_ITEMS * sum(values)), abs=1e-9)
    assert found[f"coverage@{k}"].mean == pytest.approx(sum(value > 0 for value in values) / NUM_ITEMS)
    assert found[f"gini@{k}"].count == len(world.lists)


def test_gini_by_hand():
    assert gini(np.array([1, 1, 1, 1])) == 0
    assert gini(np.array([0, 0, 0, 4])) == 0.75
    assert math.isnan(gini(np.zeros(3)))


def test_coverage_counts_real_items_in_the_first_k():
    lists = np.array([[2, 3, 4], [2, PAD, PAD], [UNKNOWN, 5, 3]])
    assert coverage(lists, 1, 10) == pytest.approx(1 / 10)
    assert coverage(lists, 2, 10) == pytest.approx(3 / 10)
    assert coverage(lists, 3, 4) == 1
    assert coverage(np.zeros((0, 0), int), 3, 4) == 0


# Slices


def item_slice(world: World, item: int) -> str:
    if item == UNKNOWN:
        return "item never seen"
    order = sorted(ITEMS, key=lambda other: (-world.events[other], other))
    before = sum(world.events[other] for other in order[: order.index(item)])
    third = sum(world.events.values()) / 3
    return "item head" if before < third else "item middle" if before < 2 * third else "item tail"


def activity_slice(world: World, user: int) -> str:
    known = sum(item != UNKNOWN for item in world.profiles[user])
    bounds = [(0, 0), (1, 4), (5, 9), (10, 19), (20, 49), (50, 10**9)]
    first, last = next(bound for bound in bounds if bound[0] <= known <= bound[1])
    return "history 0" if not first else "history 50+" if first == 50 else f"history {first}-{last}"


def metrics_of(shown: list[int], wanted: list[int], k: int) -> dict[str, float]:
    places = [place for place, item in enumerate(shown[:k]) if item in wanted]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
    gain = sum(1 / math.log2(place + 2) for place in places)
    return {f"ndcg@{k}": gain / ideal, f"recall@{k}": len(places) / len(wanted)}


def test_slices_are_those_of_a_loop_over_users_and_items(world, outcomes, facts):
    expected: dict[str, dict[int, dict[str, float]]] = {}
    for user, shown in enumerate(world.lists):
        wanted = distinct_wanted(world.wanted[user])
        for k in DEPTHS:
            own = expected.setdefault(activity_slice(world, user), {}).setdefault(user, {})
            own |= metrics_of(shown, wanted, k)
            for part in {item_slice(world, item) for item in wanted}:
                inside = [item for item in wanted if item_slice(world, item) == part]
                expected.setdefault(part, {}).setdefault(user, {}).update(metrics_of(shown, inside, k))
    found = slice_metrics(outcomes, facts, DEPTHS)
    assert set(found) == set(expected) >= {"history 0", "history 50+", "item head", "item tail", "item never seen"}
    for part, users in expected.items():
        for name, values in found[part].items():
            assert set(np.flatnonzero(~np.isnan(values))) == set(users)
            for user, metrics in users.items():
                assert values[user] == pytest.approx(metrics[name], abs=1e-6), (part, name, user)
    never = [value for values in found["item never seen"].values() for value in values[~np.isnan(values)]]
    assert never
    assert not any(never), "what training never saw is always missed"
