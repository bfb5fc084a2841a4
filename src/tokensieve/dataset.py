"""Stage 1: rows of a source become examples with a prompt, a response and a reference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.errors import DataError
from tokensieve.records import Corpus, Stamp
from tokensieve.sources import Row, Source
from tokensieve.store import Artefact, Store

if TYPE_CHECKING:
    import datasets

VERSION = 1
DATA_FILE = "data.arrow"
ROLES = ("system", "user", "assistant")


def define_corpus(
    store: Store,
    source: Source,
    split: str,
    *,
    task: str | None,
    prompt: str | None,
    response: str | None,
    system_prompt: str | None,
    reference: Mapping[str, str],
    id_field: str | None,
    limit: int | None,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> Artefact[Corpus]:
    """The examples of one split of `source`, not yet loaded.

    `prompt` and `response` are Jinja templates over a row's columns; without both, the row must carry chat
    `messages`. A split that the source does not publish is held out of its train rows: `validation_fraction` and
    `test_fraction` of them, chosen by a hash of the seed and the row's position, so that no row is in two splits.

    Raises (when the artefact is built):
        DataError: a row that does not fit, with its file and number; a split without any row.
    """
    held_out = {
        name: fraction
        for name, fraction in (("validation", validation_fraction), ("test", test_fraction))
        if not source.has_split(name)
    }
    published = source.has_split(split)
    inputs: dict[str, Any] = {
        "version": VERSION,
        "source": source.identity(split if published else "train"),
        "split": split,
        "task": task,
        "prompt": prompt,
        "response": response,
        "system_prompt": system_prompt,
        "reference": dict(reference),
        "id_field": id_field,
        "limit": limit,
        "held_out": held_out if not published or split == "train" else {},
        "seed": seed,
    }
    stamp = Stamp("dataset", inputs)

    def build(folder: Path) -> None:
        templates = _Templates(prompt, response)
        rows = _select_split(source, split, held_out, seed)
        examples = _to_examples(rows, templates, task or "", system_prompt, reference, id_field, split)
        _write(folder / DATA_FILE, _limited(examples, limit), f"{split} split of the dataset")

    return Artefact(stamp, store, build, partial(_open, stamp=stamp))


def _open(folder: Path, *, stamp: Stamp) -> Corpus:
    from datasets import Dataset

    return Corpus(Dataset.from_file(str(folder / DATA_FILE)), stamp)


def _select_split(
    source: Source, split: str, held_out: Mapping[str, float], seed: int
) -> Iterator[tuple[str, int, Row]]:
    """Triples of (where, position, row) of the split, holding out what the source does not publish."""
    published = source.has_split(split)
    for position, (where, row) in enumerate(source.rows(split if published else "train")):
        if (published and split != "train") or _held_out_split(position, held_out, seed) == split:
            yield where, position, row


def _held_out_split(position: int, held_out: Mapping[str, float], seed: int) -> str:
    """The split of a train row.

    >>> _held_out_split(3, {"validation": 0.0}, seed=0)
    'train'
    """
    draw = int.from_bytes(hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=8).digest()) / 2**64
    for name, fraction in held_out.items():
        if draw < fraction:
            return name
        draw -= fraction
    return "train"


class _Templates:
    """The two compiled templates of a dataset. Sandboxed: a template may come with somebody else's config."""

    def __init__(self, prompt: str | None, response: str | None) -> None:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self.prompt = environment.from_string(prompt) if prompt is not None else None
        self.response = environment.from_string(response) if response is not None else None

    def messages(self, row: Row, where: str) -> list[dict[str, str]]:
        from jinja2 import TemplateError

        if self.prompt is None or self.response is None:
            return _chat_messages(row, where)
        try:
            texts = [self.prompt.render(row), self.response.render(row)]
        except TemplateError as error:
            raise DataError(
                where,
                f"dataset.prompt and dataset.response must fit the row's columns {sorted(row)}",
                received=str(error),
                remedy="correct the row, or the templates of the dataset option",
            ) from None
        return [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]


def _chat_messages(row: Row, where: str) -> list[dict[str, str]]:
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(
        isinstance(turn, Mapping) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)
        for turn in messages
    ):
        raise DataError(
            where,
            "needs a column 'messages': a list of {role: system|user|assistant, content: text}",
            received=f"columns {sorted(row)}",
            remedy="or set dataset.prompt and dataset.response, Jinja templates over the columns",
        )
    return [{"role": turn["role"], "content": turn["content"]} for turn in messages]


def _to_examples(
    rows: Iterator[tuple[str, int, Row]],
    templates: _Templates,
    task: str,
    system_prompt: str | None,
    reference: Mapping[str, str],
    id_field: str | None,
    split: str,
) -> Iterator[dict[str, Any]]:
    for where, position, row in rows:
        messages = templates.messages(row, where)
        if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
            last = messages[-1]["role"] if messages else "no turn at all"
            raise DataError(
                where,
                "the last turn must be a non-empty assistant turn: it is what is trained",
                received=f"a last turn of {last}",
                remedy="correct or remove the row",
            )
        if system_prompt is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system_prompt})
        yield {
            "id": f"{split}/{_field(row, id_field, where) if id_field else position}",
            "task": task,
            "messages": messages,
            "reference": json.dumps(_reference(row, reference, where)),
            "provenance": [json.dumps({"stage": "dataset", "source": where})],
        }


def _reference(row: Row, columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """What the grader reads: the named columns, or the row's own `reference` object when none are named."""
    if not columns and isinstance(row.get("reference"), Mapping):
        return dict(row["reference"])
    return {key: _field(row, column, where) for key, column in columns.items()}


def _field(row: Row, column: str, where: str) -> Any:
    """Value of a column, which may be a dotted path into nested objects."""
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value or value[part] is None:
            raise DataError(
                where,
                f"column {column!r} must be there",
                received=f"columns {sorted(row)}",
                remedy="correct the row, or dataset.reference and dataset.id_field",
            )
        value = value[part]
    return value


def _limited(examples: Iterator[dict[str, Any]], limit: int | None) -> Iterator[dict[str, Any]]:
    for count, example in enumerate(examples):
        if limit is not None and count >= limit:
            return
        yield example


def features() -> datasets.Features:
    """Arrow schema of a corpus."""
    from datasets import Features, List, Value

    text = Value("string")
    return Features(
        {
            "id": text,
            "task": text,
            "messages": List({"role": text, "content": text}),
            "reference": text,
            "provenance": List(text),
        }
    )


def _write(path: Path, examples: Iterator[dict[str, Any]], what: str) -> None:
    from datasets.arrow_writer import ArrowWriter
    from tqdm import tqdm

    seen: set[bytes] = set()  # 8-byte digests of ids: 1 M rows take about 70 MB
    with ArrowWriter(features=features(), path=str(path)) as writer:
        for example in tqdm(examples, desc="load", unit="ex", disable=None, delay=2):
            key = hashlib.blake2b(example["id"].encode(), digest_size=8).digest()
            if key in seen:
                raise DataError(
                    what,
                    "ids must be unique",
                    received=example["id"],
                    remedy="set dataset.id_field to a unique column, or null",
                )
            seen.add(key)
            writer.write(example)
        writer.finalize()
    if not seen:
        raise DataError(
            what, "must hold at least one row", received="none", remedy="check dataset.path and dataset.split_ranges"
        )
