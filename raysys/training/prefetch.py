"""Reads ahead: while the GPU works on a step, a thread makes the next batch and copies it there."""

import queue
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from raysys.data.batches import Batch

T = TypeVar("T")
Parts = tuple[Batch, ...]


@dataclass(frozen=True)
class _End:
    """Stands after the last value, with what ended the reading."""

    error: BaseException | None


def read_ahead(source: Iterator[T], depth: int = 1) -> Generator[T]:
    """Yield the values of an iterator that a thread runs, at most `depth` of them before they are asked for.

    What the iterator raises is raised here, in its place. Closing the generator ends the thread.
    """
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    slots, stopped = threading.Semaphore(depth), threading.Event()

    def read() -> None:
        error = None
        try:
            while slots.acquire() and not stopped.is_set():
                ready.put(next(source))
        except StopIteration:
            pass
        except BaseException as raised:
            error = raised
        ready.put(_End(error))

    thread = threading.Thread(target=read, name="read ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(value := ready.get(), _End):
            yield value
            slots.release()
        if value.error is not None:
            raise value.error
    finally:
        stopped.set()
        slots.release()
        thread.join()


def batches_on(device: torch.device, source: Iterator[Parts]) -> Generator[Parts]:
    """Yield batches on a device: with CUDA read, pinned and copied ahead on a stream of their own, else one by one.

    On a CPU, reading ahead would only take the step's own time.
    """
    if device.type != "cuda":
        for parts in source:
            yield tuple(part.to(device) for part in parts)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copied() -> Iterator[tuple[Parts, torch.cuda.Event]]:
        for parts in source:
            with torch.cuda.stream(stream):
                moved = tuple(part.to(device) for part in parts)
                done = stream.record_event()
            yield moved, done

    for parts, done in read_ahead(copied()):
        current = torch.cuda.current_stream(device)
        current.wait_event(done)
        for tensor in _tensors(parts):
            tensor.record_stream(current)  # else the copying stream could reuse the memory before the step is done
        yield parts


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _tensors(inner)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
