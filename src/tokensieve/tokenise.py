"""Stage 4: a chat becomes token ids and a response mask. The only tokenisation: scoring and training share it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.chat_spans import TrainOn, encode_chats
from tokensieve.errors import DataError
from tokensieve.length_limits import max_length
from tokensieve.model import load_tokenizer, model_identity, template_identity
from tokensieve.records import Corpus, Stamp, TokenisedCorpus
from tokensieve.sources import Source
from tokensieve.store import Artefact, Store

if TYPE_CHECKING:
    from datasets.arrow_writer import ArrowWriter
    from transformers import PreTrainedTokenizerBase

VERSION = 2
DATA_FILE = "data.arrow"
BATCH_ROWS = 512


def define_tokens(
    store: Store,
    corpus: Artefact[Corpus],
    *,
    model_path: str,
    revision: str | None,
    chat_template: str | None,
    length_limit: int | None,
    train_on: TrainOn = "last",
) -> Artefact[TokenisedCorpus]:
    """Token ids and response masks of `corpus` under the model's tokenizer and chat template, not yet computed.

    The response is the last assistant turn, or all of them, each with its end token.

    Raises (when the artefact is built):
        AlignmentError: a template under which the response cannot be told from the prompt.
        DataError: an example longer than `length_limit`, or than the model's own limit when that is None.
    """
    inputs: dict[str, Any] = {
        "version": VERSION,
        "corpus": corpus.digest,
        "model": model_identity(model_path, revision),
        "chat_template": template_identity(chat_template),
        "length_limit": length_limit,
        "train_on": train_on,
    }
    stamp = Stamp("tokens", inputs)

    def build(folder: Path) -> None:
        tokenizer = load_tokenizer(model_path, revision, chat_template)
        limits = [limit for limit in (length_limit, max_length(model_path, revision)) if limit is not None]
        _write(folder / DATA_FILE, corpus.get(), tokenizer, min(limits, default=None), train_on)

    return Artefact(stamp, store, build, partial(_open, stamp=stamp))


def define_imported_tokens(
    store: Store,
    source: Source,
    split: str,
    *,
    tokens_field: str,
    prompt_tokens_field: str,
    id_field: str | None,
    limit: int | None,
    length_limit: int | None,
) -> Artefact[TokenisedCorpus]:
    """Rows that another program tokenised: all tokens from position `prompt_tokens_field` on are the response.

    Raises (when the artefact is built):
        DataError: a row without these columns, without a response token, or longer than `length_limit`. The model,
            which need not be at hand for a mask, has its own limit checked where it first reads the rows.
    """
    columns = (tokens_field, prompt_tokens_field, id_field)
    inputs: dict[str, Any] = {
        "version": VERSION,
        "source": source.identity(split),
        "split": split,
        "limit": limit,
        "columns": list(columns),
    } | ({"length_limit": length_limit} if length_limit is not None else {})
    stamp = Stamp("tokens", inputs)

    def build(folder: Path) -> None:
        rows = _imported_rows(source, split, columns, length_limit)
        with _writer(folder / DATA_FILE) as writer:
            for row in islice(rows, limit):
                writer.write(row)
            writer.finalize()

    return Artefact(stamp, store, build, partial(_open, stamp=stamp))


def _imported_rows(
    source: Source, split: str, columns: tuple[str, str, str | None], length_limit: int | None
) -> Iterator[dict[str, Any]]:
    tokens_field, prompt_tokens_field, id_field = columns
    for position, (where, row) in enumerate(source.rows(split)):
        ids, num_prompt = row.get(tokens_field), row.get(prompt_tokens_field)
        if ids is None or not isinstance(num_prompt, int) or not 0 < num_prompt < len(ids):
            raise DataError(
                where,
                f"needs token ids in {tokens_field!r} and, in {prompt_tokens_field!r}, how many of them are the prompt",
                received=f"columns {sorted(row)}, prompt tokens {num_prompt}",
                remedy="correct dataset.tokens_field or the row",
            )
        if id_field is not None and id_field not in row:
            remedy = "correct dataset.id_field or the row"
            raise DataError(where, f"needs its id in {id_field!r}", received=f"columns {sorted(row)}", remedy=remedy)
        if length_limit is not None and len(ids) > length_limit:
            raise _too_long(where, len(ids), length_limit)
        mask = [place >= num_prompt for place in range(len(ids))]
        yield {"id": f"{split}/{row[id_field] if id_field else position}", "input_ids": ids, "is_response": mask}


def _open(folder: Path, *, stamp: Stamp) -> TokenisedCorpus:
    from datasets import Dataset

    return TokenisedCorpus(Dataset.from_file(str(folder / DATA_FILE)), stamp)


def _write(
    path: Path, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, limit: int | None, train_on: TrainOn
) -> None:
    from tqdm import tqdm

    with _writer(path) as writer:
        with tqdm(total=len(corpus), desc="tokenise", unit="ex", disable=None, delay=2) as progress:
            for start in range(0, len(corpus), BATCH_ROWS):
                rows = corpus.rows[start : start + BATCH_ROWS]
                encoded = encode_chats(tokenizer, rows["messages"], rows["id"], train_on)
                for at, (name, (input_ids, is_response)) in enumerate(zip(rows["id"], encoded, strict=True)):
                    if limit is not None and len(input_ids) > limit:
                        raise _too_long(_locate(name, rows["provenance"][at]), len(input_ids), limit)
                    writer.write({"id": name, "input_ids": input_ids, "is_response": is_response})
                progress.update(len(rows["id"]))
        writer.finalize()


def _writer(path: Path) -> ArrowWriter:
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    features = Features({"id": Value("string"), "input_ids": List(Value("int32")), "is_response": List(Value("bool"))})
    return ArrowWriter(features=features, path=str(path))


def _locate(name: str, provenance: list[str]) -> str:
    source = json.loads(provenance[0]).get("source") if provenance else None
    return f"{source} (example {name})" if source else f"example {name}"


def _too_long(where: str, length: int, limit: int) -> DataError:
    return DataError(
        where,
        f"must have at most {limit} tokens, the model's limit",
        received=length,
        remedy="shorten or remove it, or raise model.max_length if the model allows more",
    )
