"""From a run's stages to a folder of files: build up to the mask, lay out what is trained, record what made it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokensieve.config import RunConfig, to_plain
from tokensieve.errors import ConfigError
from tokensieve.export.folder import staged_folder
from tokensieve.prepare.files import FILE_FORMATS
from tokensieve.prepare.formats import FORMATS, Format, count_answers
from tokensieve.prepare.records import Prepared, PreparedSplit
from tokensieve.prepare.splits import Split, find_splits
from tokensieve.prepare.target import MADE_BY, MANIFEST, check_target
from tokensieve.stages import Stages
from tokensieve.store import Artefact, file_checksum
from tokensieve.tracking import git_commit, package_versions

if TYPE_CHECKING:
    import pyarrow as pa

VERSION: Final = 1
log = logging.getLogger(__name__)


def prepare_data(
    stages: Stages, output: Path, *, format_name: str, file_format: str = "jsonl", force: bool = False
) -> Prepared:
    """Build the stages up to the mask and write every example that trains a token into `output`.

    A file a split (train, and validation where there is one), and `manifest.json`: the stages' stamps, counts, the
    config. A row holds `id`, the fields of the format, and `provenance`, from the source row on. In the format
    `tokens`, `labels` [T] are `input_ids` where a token is trained and -100 elsewhere, not shifted; the other formats
    hold the texts and no mask.

    Args:
        stages: of the run.
        output: a new or an empty folder; it appears whole or not at all.
        format_name: one of `FORMATS`.
        file_format: jsonl or parquet.
        force: replace what an earlier call wrote into `output`.

    Raises:
        ConfigError: a folder that may not be written, a text format for rows that come as tokens.
        DataError: an example that the format cannot hold, found before anything is scored.
        CacheError: the disk is full or cannot be written; nothing stays in `output`.
    """
    wanted = FORMATS[format_name]
    config = stages.config
    if wanted.is_text and stages.train is None:
        raise ConfigError(
            "--format",
            "must be tokens where rows come as tokens (dataset.tokens_field): there is no text",
            received=format_name,
            remedy="use --format tokens",
        )
    target = check_target(output, force=force, inputs=_inputs(config))
    splits = find_splits(stages)
    every = _stages(stages, splits)
    texts = [stage for stage in every if stage in stages.corpora or stage.startswith("dataset ")]
    _build_all({stage: every[stage] for stage in texts})
    for split in splits:
        split.check_fit(wanted, format_name)
    _build_all({stage: artefact for stage, artefact in every.items() if stage not in texts})
    counts = {stage: len(artefact.get()) for stage, artefact in stages.corpora.items()}
    with staged_folder(target) as aside:
        longer = _Longer()
        written = [_write_split(split, wanted, aside, file_format, longer) for split in splits]
        manifest = _manifest(stages, splits, written, counts, format_name)
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
        (aside / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return Prepared(target, format_name, tuple(written), counts, config.dataset.train_on, longer.num_rows)


class _Longer:
    """Counts rows with more than one assistant turn on their way."""

    num_rows = 0

    def watch(self, table: pa.Table) -> pa.Table:
        self.num_rows += int((count_answers(table) > 1).sum())
        return table


def _inputs(config: RunConfig) -> list[Path]:
    named = (config.dataset.path, config.noise.path, config.stm.scores_path, config.model.path, config.output_dir)
    return [Path(path) for path in named if path is not None]


def _build_all(stages: Mapping[str, Artefact[Any]]) -> None:
    for stage, artefact in stages.items():
        start = time.perf_counter()
        artefact.get()
        log.info("%s %s (%.1f s)", stage, "built" if artefact.built_here else "cached", time.perf_counter() - start)


def _stages(stages: Stages, splits: Sequence[Split]) -> dict[str, Artefact[Any]]:
    """Every stage by name, in order, those of the validation split at the end."""
    found = stages.training_data()
    for split in splits[1:]:
        parts = {"dataset": split.corpus, "tokenise": split.tokens, "mask": split.mask}
        found |= {f"{stage} {split.name}": artefact for stage, artefact in parts.items() if artefact is not None}
    return found


def _write_split(split: Split, wanted: Format, folder: Path, file_format: str, longer: _Longer) -> PreparedSplit:
    from tqdm import tqdm

    path = folder / f"{split.name}.{file_format}"
    stats = split.mask.get().stats
    count = 0

    def laid_out() -> Iterator[pa.Table]:
        nonlocal count
        num_trained = stats.num_examples - stats.dropped_examples
        with tqdm(total=num_trained, desc=f"write {split.name}", unit="ex", disable=None, delay=2) as bar:
            for table in split.trained(wanted):
                if wanted.is_text:
                    longer.watch(table)
                yield wanted.lay_out(table)
                count += len(table)
                bar.update(len(table))

    FILE_FORMATS[file_format](path, laid_out())
    return PreparedSplit(split.name, path.name, count, path.stat().st_size, file_checksum(path), stats)


def _manifest(
    stages: Stages,
    splits: Sequence[Split],
    written: Sequence[PreparedSplit],
    counts: Mapping[str, int],
    format_name: str,
) -> dict[str, Any]:
    """What made the files. No time of day: the same run writes the same bytes."""
    files = {
        split.name: {
            "file": split.file,
            "rows": split.num_rows,
            "left_out": split.num_left_out,
            "bytes": split.num_bytes,
            "xxh3_128": split.checksum,
            "mask": asdict(split.stats) | {"kept_fraction": split.stats.kept_fraction},
        }
        for split in written
    }
    stamps = {
        name: {"stage": artefact.stamp.stage, "digest": artefact.digest, "inputs": dict(artefact.stamp.inputs)}
        for name, artefact in _stages(stages, splits).items()
    }
    values = {
        "made_by": MADE_BY,
        "version": VERSION,
        "format": format_name,
        "train_on": stages.config.dataset.train_on,
        "carries_mask": not FORMATS[format_name].is_text,
        "splits": files,
        "examples_after_stage": dict(counts),
        "stamps": stamps,
        # Left out: where a server is, which can hold a password.
        "config": {key: value for key, value in to_plain(stages.config).items() if key != "tracking"},
        "versions": package_versions(),
        "git_commit": git_commit(),
    }
    finite: dict[str, Any] = json.loads(json.dumps(values), parse_constant=lambda name: None)
    return finite
