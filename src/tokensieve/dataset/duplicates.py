"""Equal and nearly equal texts in a sequence that is read from disk: MinHash finds candidates, true sets decide.

Two texts are equal when they are so after Unicode compatibility normalisation, case folding and collapsing of white
space. They are near when the Jaccard similarity of their sets of three neighbouring words reaches a threshold; signs
and the characters of scripts without spaces count as words of their own.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

Mode = Literal["exact", "near"]
NUM_PERMUTATIONS: Final = 128
SHINGLE_WORDS: Final = 3
MAX_COMPARED: Final = 200  # texts of a bucket, and of all buckets of a text, that are compared: the earliest
_CJK: Final = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")


class Texts(Protocol):
    """Texts by number; iterating reads them in order."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> str: ...
    def __iter__(self) -> Iterator[str]: ...


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Text `row` repeats text `of` with a Jaccard similarity in (0, 1]; 1.0 for equal texts."""

    row: int
    of: int
    similarity: float


def normalise(text: str) -> str:
    """The text as it is compared.

    >>> normalise("  Two\\nＷords ")
    'two words'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> frozenset[str]:
    """The sets of neighbouring words that near texts share; a shorter text is one shingle.

    >>> sorted(shingles("To be, or"))
    ['be , or', 'to be ,']
    """
    words = _WORD.findall(normalise(text))
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[at : at + SHINGLE_WORDS]) for at in range(count))


def find_repeats(texts: Texts, mode: Mode, threshold: float) -> Iterator[Duplicate]:
    """Each text that repeats an earlier one which is not itself a repeat, in ascending order of `row`.

    >>> list(find_repeats(["One two.", "three", "one  two."], "exact", 0.8))
    [Duplicate(row=2, of=0, similarity=1.0)]
    """
    yield from _find(texts, 0, mode, threshold)


def find_overlap(texts: Texts, reference: Texts, mode: Mode, threshold: float) -> Iterator[Duplicate]:
    """Each text that repeats one of `reference`; `of` counts in `reference`.

    >>> list(find_overlap(["a b", "c d"], ["c d"], "exact", 0.8))
    [Duplicate(row=1, of=0, similarity=1.0)]
    """
    both = _Chained(reference, texts)
    for found in _find(both, len(reference), mode, threshold):
        yield Duplicate(found.row - len(reference), found.of, found.similarity)


class _Chained:
    def __init__(self, first: Texts, second: Texts) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, number: int) -> str:
        return self.first[number] if number < len(self.first) else self.second[number - len(self.first)]

    def __iter__(self) -> Iterator[str]:
        yield from self.first
        yield from self.second


def _find(texts: Texts, num_fixed: int, mode: Mode, threshold: float) -> Iterator[Duplicate]:
    """Repeats from number `num_fixed` on; with fixed texts before it, those alone are what is repeated."""
    seen: dict[bytes, int] = {}  # 16 bytes a text: 1 M texts take about 150 MB
    buckets = _near_buckets(texts, threshold) if mode == "near" else None
    kept: dict[int, list[int]] = {}  # bucket -> the texts in it that stay

    @lru_cache(maxsize=4096)
    def shingles_of(number: int) -> frozenset[str]:
        return shingles(texts[number])

    for number, text in enumerate(texts):
        is_fixed = number < num_fixed
        key = hashlib.blake2b(normalise(text).encode(errors="surrogatepass"), digest_size=16).digest()
        shared = [bucket for bucket in buckets[number].tolist() if bucket >= 0] if buckets is not None else []
        found: Duplicate | None = None
        if not is_fixed:
            if key in seen:
                found = Duplicate(number, seen[key], 1.0)
            elif shared:
                found = _find_near(number, shared, kept, shingles_of, threshold)
        if found is not None:
            yield found
        elif is_fixed or not num_fixed:
            seen.setdefault(key, number)
            for bucket in shared:
                if len(inside := kept.setdefault(bucket, [])) < MAX_COMPARED:
                    inside.append(number)


def _find_near(
    number: int, buckets: Sequence[int], kept: dict[int, list[int]], shingles_of: Any, threshold: float
) -> Duplicate | None:
    """The most similar of the earlier texts that share a bucket, if it is near enough."""
    candidates = sorted({other for bucket in buckets for other in kept.get(bucket, ())})[:MAX_COMPARED]
    own: frozenset[str] = shingles_of(number)
    best = Duplicate(number, -1, 0.0)
    for other in candidates:
        theirs: frozenset[str] = shingles_of(other)
        common = len(own & theirs)
        similarity = common / (len(own) + len(theirs) - common)
        if similarity > best.similarity:
            best = Duplicate(number, other, similarity)
    return best if best.similarity >= threshold else None


def _near_buckets(texts: Texts, threshold: float) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Which bands of its MinHash a text shares with another, int32 [texts, bands]: the bucket's number, or -1.

    What MinHashLSH holds for each text takes kilobytes; these arrays take some two hundred bytes.
    """
    import numpy as np

    keys = _band_keys(texts, threshold)
    buckets = np.full(keys.shape, -1, dtype=np.int32)
    num_buckets = 0
    for band in range(keys.shape[1] if len(keys) else 0):
        _, inverse, sizes = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        shared = sizes[inverse] > 1
        buckets[shared, band] = inverse[shared] + num_buckets
        num_buckets += len(sizes)
    return buckets


def _band_keys(texts: Texts, threshold: float) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Digests of the MinHash bands, uint64 [texts, bands]; bands and rows are the library's for this threshold."""
    import numpy as np
    import xxhash
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]
    from tqdm import tqdm

    # Bands for a lower threshold: at the true one few pairs are missed (1 % at most), and false candidates are thrown
    # out by their true similarity.
    lsh = MinHashLSH(threshold=threshold - 0.15, num_perm=NUM_PERMUTATIONS, weights=(0.1, 0.9))
    sketch = MinHash(num_perm=NUM_PERMUTATIONS, seed=1, hashfunc=xxhash.xxh32_intdigest, scheme="affine32")
    keys = np.empty((len(texts), lsh.b), dtype=np.uint64)
    for number, text in enumerate(tqdm(texts, desc="compare", unit="ex", disable=None, delay=2)):
        sketch.clear()
        sketch.update_batch([shingle.encode(errors="surrogatepass") for shingle in shingles(text)])
        values = sketch.hashvalues.astype("<u4")
        for band in range(lsh.b):
            keys[number, band] = xxhash.xxh3_64_intdigest(values[band * lsh.r : (band + 1) * lsh.r].tobytes())
    return keys
