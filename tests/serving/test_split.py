"""Replicas without a model answer as those with one, through scorers that die, are slow, or change their run."""

import asyncio
import shutil
import threading
import time

import pytest
import torch
from asgi import call, post, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from split import gateway_over, split, user_config
from test_new_items import text_run

from raysys.errors import UserError
from raysys.runs import Run
from serving.answers.encoded import EncodedUsers
from serving.answers.encoding import StateEncoder, with_history
from serving.answers.question import Question
from serving.http.gateway import Gateway
from serving.index import Asked, Products
from serving.scoring import scorer as scorers
from serving.scoring.device import find_device
from serving.scoring.scorer import Scorer
from serving.service import Service
from serving.users.state import NOBODY

pytestmark = pytest.mark.thorough
ITEMS = [f"i{number}" for number in range(60)]
RECOMMEND, BODY = "/v1/recommend", {"history": ["i3"]}


@pytest.fixture(scope="module")
def loop():
    with asyncio.Runner() as runner:
        yield runner


async def both_ways(config):
    """Return gateways with and without a model of their own, over one store."""
    divided, piped = await split(config)
    own = await Service.load({**config, "scorers": 0}, divided.service.store)
    await own.items.start()
    return divided, Gateway(own), piped


@pytest.fixture(scope="module")
def shop_both(loop, shop, tmp_path_factory):
    return loop.run(both_ways(user_config(shop, tmp_path_factory.mktemp("both"), k=5, k_max=60)))


some = st.lists(st.sampled_from([*ITEMS, "?"]), min_size=1, max_size=8)
scores = st.none() | st.fixed_dictionaries({"next_item": st.floats(-2, 2), "click": st.floats(0.5, 2)})
asker = st.fixed_dictionaries(
    {}, optional={"user_id": st.sampled_from(["u1", "u7", "?"]), "session_id": st.just("s"), "history": some}
).map(lambda given: given or {"history": []})
filters = st.fixed_dictionaries(
    {}, optional={"brand": st.sampled_from(["acme", ["bolt", "core"], "?"]), "price": st.just({"at_least": 20})}
)
recommendation = st.builds(
    lambda who, more: {**who, **more},
    asker,
    st.fixed_dictionaries(
        {},
        optional={
            "k": st.integers(1, 70),
            "exclude_seen": st.booleans(),
            "candidates": some,
            "filters": filters,
            "context": st.just({"tab": "1"}),
            "score": scores,
            "diversity": st.sampled_from([0.0, 0.4]),
            "explain": st.booleans(),
        },
    ),
)
requests = st.one_of(
    st.tuples(st.just(RECOMMEND), recommendation),
    st.tuples(
        st.just("/v1/recommend/batch"), st.lists(recommendation, min_size=1, max_size=4).map(lambda r: {"requests": r})
    ),
    st.tuples(
        st.just("/v1/rank"),
        st.builds(lambda who, items, score: {**who, "items": items, "score": score}, asker, some, scores),
    ),
    st.tuples(
        st.just("/v1/similar"),
        st.fixed_dictionaries(
            {"item_id": st.sampled_from([*ITEMS, "?"])},
            optional={"by": st.sampled_from(["cosine", "similar_item", "click"]), "filters": filters},
        ),
    ),
    st.tuples(st.just("/v1/bundle"), st.fixed_dictionaries({"items": some}, optional={"filters": filters})),
    st.tuples(
        st.just("/v1/popular"), st.fixed_dictionaries({}, optional={"window": st.just("5d"), "filters": filters})
    ),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests)
def test_answers_are_the_same_byte_for_byte(loop, shop_both, request):
    divided, own, _ = shop_both
    path, body = request
    asked, wanted = loop.run(_ask_both(divided, own, path, body))
    assert (asked.status, asked.content) == (wanted.status, wanted.content)


async def _ask_both(divided, own, path, body):
    return [await post(gateway, path, body, x_request_id="same") for gateway in (divided, own)]


def test_a_replica_loads_neither_network_nor_index(loop, shop_both):
    divided, own, piped = shop_both
    assert loop.run(post(divided, RECOMMEND, BODY)).status == 200
    assert "network" not in vars(divided.service.run)
    assert "network" in vars(own.service.run)
    for path in ("/v1/models", "/healthz", "/readyz"):
        asked, wanted = (loop.run(call(gateway, "GET", path)) for gateway in (divided, own))
        assert asked.status == wanted.status == 200
        unlike = {"request_id"}
        assert {k: v for k, v in asked.json.items() if k not in unlike} == {
            k: v for k, v in wanted.json.items() if k not in unlike
        }
    assert piped.calls[-1][0] == "alive", "readiness is that of a scorer"


def test_new_items_are_known_at_once_and_the_same(loop, tmp_path):
    run = text_run(tmp_path, {"items": {"text": {"directions": 16}}})
    divided, own, piped = loop.run(both_ways(user_config(run, tmp_path, k=5, k_max=60)))
    new = {"item_id": "new", "title": "black boat", "features": {"price": 99, "kind": "boat"}}
    asked = [
        (RECOMMEND, {"history": ["i4", "i5"], "k": 60, "exclude_seen": False}),
        (RECOMMEND, {"history": ["i4", "new"], "k": 60, "diversity": 0.5}),
        ("/v1/similar", {"item_id": "new"}),
        ("/v1/similar", {"item_id": "new", "by": "similar_item"}),
        ("/v1/rank", {"history": ["i4"], "items": ["new", "i7", "?"], "explain": True}),
        ("/v1/bundle", {"items": ["new", "i7"]}),
        ("/v1/items", {"items": [{"item_id": "bare", "features": {"price": 1}}]}),
    ]

    async def scenario():
        before = [await _ask_both(divided, own, *one) for one in asked]
        posted = await post(divided, "/v1/items", {"items": [new], "withdraw": ["i7"]})
        assert (posted.status, posted.json["new"]) == (200, 1)
        await own.service.items.sync()
        assert piped.scorer._loaded()[0].items.live.version < posted.json["version"], "it has not looked yet"
        after = [await _ask_both(divided, own, *one) for one in asked]
        shown = await call(divided, "GET", "/v1/items/new")
        return before, after, shown.json

    before, after, shown = loop.run(scenario())
    for one, wanted in [*before, *after]:
        assert (one.status, one.content) == (wanted.status, wanted.content)
    assert [one.status for one, _ in before] == [200, 200, 404, 404, 200, 200, 400]
    assert [one.status for one, _ in after] == [200, 200, 200, 409, 200, 200, 400]
    assert "new" in {item["item_id"] for item in after[0][0].json["items"]}
    assert shown["new"]
    assert divided.service.items.live.new is None, "vectors stay with the scorers"
    assert "network" not in vars(divided.service.run)


def test_a_run_that_cannot_show_new_items_says_so(loop, shop_both):
    divided, own, _ = shop_both
    body = {"items": [{"item_id": "new", "title": "x"}]}
    asked, wanted = loop.run(_ask_both(divided, own, "/v1/items", body))
    assert asked.status == wanted.status == 409
    assert asked.content == wanted.content


class Slow:
    """Stands in for what a scorer computes: waits until it may go on, and counts what it was asked."""

    def __init__(self, piped):
        (service,) = piped.scorer._loaded()
        retrieval = service.answerer.retrieval
        self.go_on, self.batches, self._answers = threading.Event(), [], retrieval.answers
        retrieval.answers = self.answers

    def answers(self, questions):
        self.batches.append(len(questions))
        assert self.go_on.wait(30)
        return self._answers(questions)


@pytest.fixture
def config(tiny_run, tmp_path):
    """A function that returns the config of a split over the tiny run."""

    def make(**settings):
        return user_config(tiny_run, tmp_path, **settings)

    return make


async def ask_many(gateway, count, **headers):
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(post(gateway, RECOMMEND, BODY, **headers)))
        await asyncio.sleep(0.01)
    return tasks


def test_a_batch_forms_under_load_alone_and_no_more_than_may_wait(config):
    told = config(limits={"waiting": 3, "batch": 2})

    async def scenario():
        gateway, piped = await split(told)
        model = Slow(piped)
        tasks = await ask_many(gateway, 9)
        refused = [await task for task in tasks if task.done()]
        assert {(one.status, one.json["error"]["code"]) for one in refused} == {(429, "overloaded")}
        assert len(refused) == 2, "three wait, and two have the places that the batches under way left free"
        assert gateway.service.num_waiting == 5
        model.go_on.set()
        assert sorted([(await task).status for task in tasks]) == [200] * 7 + [429] * 2
        sent = [len(given[2]) for name, given in piped.calls if name == "answer"]
        assert sent == [1, 1, 2, 2, 1]
        text = (await call(gateway, "GET", "/metrics")).content.decode()
        assert f"raysys_model_batch_size_count {float(len(model.batches))}" in text, "each batch of the model is told"
        assert "raysys_model_batch_size_sum 7.0" in text
        assert 'raysys_scorer_seconds_count{answered="true"} 5.0' in text

    asyncio.run(scenario())


def test_what_is_late_is_not_computed_wherever_it_waited(config):
    told = config()

    async def scenario():
        gateway, piped = await split(told)
        model = Slow(piped)
        first = await ask_many(gateway, 1)
        await until(lambda: model.batches)
        hasty = await ask_many(gateway, 2, x_deadline_ms="50")
        await asyncio.sleep(0.1)
        model.go_on.set()
        assert (await first[0]).status == 200
        assert {(one.status, one.json["error"]["code"]) for one in [await task for task in hasty]} == {
            (504, "deadline")
        }
        assert model.batches == [1]

    asyncio.run(scenario())


def test_questions_of_a_scorer_that_dies_are_asked_again(config):
    told = config()

    async def scenario():
        gateway, piped = await split(told)
        piped.deaths = 1
        assert (await post(gateway, RECOMMEND, BODY)).status == 200
        piped.deaths = 2
        refused = await post(gateway, RECOMMEND, BODY)
        assert (refused.status, refused.json["error"]["code"]) == (503, "scorers_down")
        assert int(refused.headers[b"retry-after"]) >= 1
        assert (await post(gateway, RECOMMEND, BODY)).status == 200, "it is back"

    asyncio.run(scenario())


def test_while_no_scorer_is_there_everybody_is_told_so_soon(config, caplog):
    told = config(limits={"batch": 1})

    async def scenario():
        gateway, piped = await split(told)
        piped.there.clear()
        began = time.monotonic()
        tasks = await ask_many(gateway, 6, x_deadline_ms="600")
        replies = [await task for task in tasks]
        assert {(one.status, one.json["error"]["code"]) for one in replies} == {(503, "scorers_down")}
        assert time.monotonic() - began < 5
        assert caplog.text.count("scorers_down") == 1, "the log does not fill up"
        assert gateway.service.problem() is None, "the replica itself is well"
        assert (await call(gateway, "GET", "/healthz")).status == 200
        ready = await call(gateway, "GET", "/readyz")
        assert (ready.status, ready.json["error"]["message"]) == (503, "no scorer answers")
        looks = await ask_many(gateway, 3)
        assert sorted(task.done() for task in looks) == [False, True, True], "one finds out, the others need not wait"
        piped.there.set()
        assert sorted([(await task).status for task in looks]) == [200, 503, 503]
        crowd = await asyncio.gather(*(post(gateway, RECOMMEND, BODY) for _ in range(6)))
        assert {one.status for one in crowd} == {200}, "that it took long to find nobody counts no more"
        assert (await call(gateway, "GET", "/readyz")).status == 200

    asyncio.run(scenario())


def test_a_fault_of_a_scorer_is_a_fault_without_its_text(config, caplog):
    told = config()

    async def scenario():
        gateway, piped = await split(told)
        (service,) = piped.scorer._loaded()
        service.answerer.retrieval.answers = lambda questions: [][len("secret-user")]
        reply = await post(gateway, RECOMMEND, {"history": ["secret-item"]})
        assert (reply.status, reply.json["error"]["code"]) == (500, "internal")
        assert (await post(gateway, "/v1/popular", {"window": "0.5d"})).status in (400, 500)

    asyncio.run(scenario())
    assert "IndexError" in caplog.text
    assert "a batch failed" in caplog.text
    assert "secret-item" not in caplog.text


@pytest.fixture
def other_run(tiny_run, tmp_path):
    """The tiny run under another id and with other titles."""
    path = shutil.copytree(tiny_run.path, tmp_path / "other")
    record = tiny_run.record.model_copy(update={"run_id": "other"})
    (path / "run.json").write_text(record.model_dump_json())
    return Run.open(path)


def test_each_replica_is_answered_by_its_own_run_while_runs_change(config, other_run, monkeypatch):
    monkeypatch.setattr(scorers, "_KEPT_S", 0.2)

    told = config()

    async def scenario():
        old, piped = await split(told)
        after = {**told, "run": str(other_run.path), "k": 3}
        await piped.scorer.reconfigure(after)
        new = await gateway_over(after, piped)
        for _ in range(2):
            answered = {}
            for gateway in (old, new):
                reply = await post(gateway, RECOMMEND, BODY)
                answered[reply.json["run_id"]] = len(reply.json["items"])
            assert answered == {old.service.run_id: 10, "other": 3}
            await until(lambda: len(piped.scorer._loaded()) == 1)  # nobody asks for the old one any more
        await piped.scorer.reconfigure({**after, "run": "/nowhere"})
        assert (await post(new, RECOMMEND, BODY)).status == 200, "a bad run changes nothing"
        piped.scorer.check_health()
        with pytest.raises(UserError, match="not a run"):
            await gateway_over({**after, "run": str(other_run.path.parent)}, piped)

    asyncio.run(scenario())


def test_a_scorer_waits_for_its_first_run_and_refuses_a_bad_one(config):
    good, bad = config(), config(ranking={"score": {"clock": 1}})

    async def scenario():
        with pytest.raises(UserError, match="not a run"):
            await Scorer().reconfigure({**good, "run": "/nowhere"})
        with pytest.raises(UserError, match="clock"):
            await Scorer().reconfigure(bad)

    asyncio.run(scenario())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    assert find_device(False) == torch.device("cpu")
    with pytest.raises(UserError, match="num_gpus"):
        Scorer(wants_gpu=True)


def test_all_that_the_network_reads_goes_to_its_device(shop):
    """On `meta` nothing is computed, but an operation that mixes devices fails as it would with a GPU."""
    device, run = torch.device("meta"), Run.open(shop.path)
    network = run.network.to(device)
    state = with_history(NOBODY, ["i3", "i5"], "view")
    questions = [Question(state, context={"tab": "1"}), Question()]
    users = EncodedUsers(network, StateEncoder(run), questions, run.config.model.max_length, device)
    with torch.inference_mode():
        products = Products(network.recommender.vectors().table(), torch.zeros(2, run.config.model.width))
        queries_BD = users.vectors("next_item")
        scores_BA = products.of(queries_BD, torch.tensor([3, 60]))
    assert users.known == [True, False]
    assert {queries_BD.device, scores_BA.device, users.context.categories["tab"].device} == {device}
    assert Asked(queries_BD, users.had).pairs()[0].device.type == "cpu"
