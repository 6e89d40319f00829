"""A stable hash of ids, the same in every process, version and machine: it chooses lanes, samples, held-out parts."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_WORD = 8
_ONE = np.uint64(0xFFFFFFFFFFFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hash_ids(ids: pa.Array | pa.ChunkedArray, seed: int = 0) -> np.ndarray:
    """Return a 64-bit hash (u64 [N]) of each text: its bytes in words of eight, mixed as in SplitMix64.

    SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014). Not cryptographic:
    `raysys.data.privacy` makes pseudonyms. Nulls hash as the empty text.
    """
    texts = pc.cast(pc.fill_null(ids, ""), pa.large_string())
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    if not len(texts):
        return np.zeros(0, np.uint64)
    ends = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    words = _words(texts.buffers()[2])
    lengths = np.diff(ends)
    hashes = (lengths.astype(np.uint64) + np.uint64(1 + seed)) * _GOLDEN
    live = np.arange(len(lengths)) if lengths.min() == 0 else slice(None)
    for start in range(0, int(lengths.max()), _WORD):
        if start or lengths.min() == 0:  # most ids fit a word or two: later words concern few
            live = np.flatnonzero(lengths > start)
        left = np.minimum(lengths[live] - start, _WORD).astype(np.uint64)
        word = words[ends[:-1][live] + start] & (_ONE >> (np.uint64(64) - left * np.uint64(8)))
        mixed = (hashes[live] ^ word) * _MIX[0]
        hashes[live] = mixed ^ (mixed >> np.uint64(29))
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX[1]
    return hashes ^ (hashes >> np.uint64(29))


def share_of(hashes: np.ndarray) -> np.ndarray:
    """Return where each hash lies between 0 and 1 [N] f64: `share_of(hash_ids(ids, seed)) < 0.1` chooses a tenth."""
    return (hashes >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _words(data: pa.Buffer | None) -> np.ndarray:
    """Return, for every byte, the little-endian word that begins there; zeros follow the last byte."""
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    padded = np.concatenate([content, np.zeros(_WORD, np.uint8)])
    return np.ndarray((len(padded) - _WORD + 1,), dtype="<u8", buffer=padded, strides=(1,))
