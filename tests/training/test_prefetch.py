import itertools
import threading

import pytest
import torch

from raysys.data.batches import make_batch
from raysys.data.schema import Split
from raysys.training.prefetch import batches_on, read_ahead


def _reading() -> int:
    return sum(thread.name == "read ahead" for thread in threading.enumerate())


def test_values_come_in_order_and_the_thread_ends():
    assert list(read_ahead(iter(range(100)))) == list(range(100))
    assert list(read_ahead(iter([]))) == []
    assert _reading() == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_read_than_the_depth(depth):
    made, step = [], threading.Semaphore(0)

    def source():
        for number in itertools.count():
            made.append(number)
            step.release()
            yield number

    ahead = read_ahead(source(), depth)
    assert next(ahead) == 0
    for _ in range(depth):
        assert step.acquire(timeout=10)
    assert not step.acquire(timeout=0.05)
    assert made == list(range(depth))  # the one in use still counts
    ahead.close()
    assert _reading() == 0


def test_what_the_source_raises_is_raised_after_what_it_gave():
    def source():
        yield 1
        raise KeyError("shard")

    ahead = read_ahead(source())
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="shard"):
        next(ahead)
    assert _reading() == 0


def test_a_reader_that_stops_early_leaves_no_thread():
    for value in read_ahead(itertools.count()):
        if value == 5:
            break
    assert _reading() == 0


def test_on_a_cpu_batches_are_made_when_they_are_asked_for(contract_reader):
    rows = contract_reader.rows(torch.arange(4).numpy())
    made = []

    def source():
        for number in range(3):
            made.append(number)
            yield (make_batch(rows, Split.TRAIN, contract_reader.is_history, 5, key=number),)

    batches = batches_on(torch.device("cpu"), source())
    (first,) = next(batches)
    assert (first.key, made) == (0, [0])
    assert [part.key for (part,) in batches] == [1, 2]
