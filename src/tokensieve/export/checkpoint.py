"""A trained model as one checkpoint: merged where it is an adapter, copied where all weights were trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tokensieve.errors import AlignmentError, ConfigError
from tokensieve.export.folder import check_space, check_target, staged_folder
from tokensieve.export.merging import merge_adapter, read_stored
from tokensieve.export.records import Export
from tokensieve.model import folder_checksums, load_tokenizer, resolve_path
from tokensieve.template_day import with_own_template
from tokensieve.trained_model import TrainedModel

RECORD = "tokensieve_export.json"


def export_model(trained: TrainedModel, output: Path, *, dtype: str = "auto", force: bool = False) -> Export:
    """Write base and adapter as one checkpoint: safetensors, tokenizer, chat template, generation config, a record.

    Args:
        trained: what to export. A base that was held in 4 bits for training is merged in its own 16 or 32 bits.
        output: a new or an empty folder.
        dtype: of the merged weights; auto: that of the base's checkpoint.
        force: replace a model that lies in `output`.

    Raises:
        ConfigError: nothing to merge, an adapter of another base, a folder that must not be replaced.
        AlignmentError: the written model does not say what the unmerged says; nothing stays in `output`.
        CacheError: the disk is full or cannot be written; nothing stays in `output`.
    """
    if trained.weights is None:
        raise ConfigError(
            "export",
            "needs something trained on the base",
            received="the base alone",
            remedy="give a run, or --adapter",
        )
    model = trained.config.model
    inputs = [Path(resolve_path(model.path)), trained.weights, *([trained.run] if trained.run else [])]
    target = check_target(output, force=force, inputs=[path for path in inputs if path.exists()])
    if not trained.is_adapter:
        return _copy_all_weights(trained, trained.weights, target, dtype)
    with staged_folder(target) as aside:
        export = merge_adapter(trained, aside, target, dtype=dtype)
        _write_record(trained, export, aside)
    return export


def _copy_all_weights(trained: TrainedModel, weights: Path, target: Path, dtype: str) -> Export:
    """A full fine-tune is a checkpoint already: its files, with the tokenizer that it was trained with."""
    if dtype != "auto":
        raise ConfigError(
            "--dtype",
            "cannot be changed after full fine-tuning: the weights are copied",
            received=dtype,
            remedy="omit it",
        )
    model = trained.config.model
    tokenizer = load_tokenizer(model.path, model.revision, model.chat_template)
    check_space(target, sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()))
    with staged_folder(target) as aside:
        shutil.copytree(weights, aside, dirs_exist_ok=True)
        if folder_checksums(aside) != folder_checksums(weights):
            raise AlignmentError(str(target), "the copy must equal the original", remedy="check the disk")
        with_own_template(tokenizer).save_pretrained(aside)
        file = aside / "config.json"
        values = json.loads(file.read_text(encoding="utf-8"))
        values["use_cache"] = read_stored(trained)["use_cache"]
        file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        export = Export(target, str(values.get("dtype") or values.get("torch_dtype") or "unknown"))
        _write_record(trained, export, aside)
    return export


def _write_record(trained: TrainedModel, export: Export, folder: Path) -> None:
    """Where the checkpoint comes from, beside its weights."""
    assert trained.weights is not None
    values = {
        "base": trained.config.model.path,
        "revision": trained.config.model.revision,
        "trained_files": folder_checksums(trained.weights),
        "run": trained.config.run_name if trained.run is not None else None,
        "quantised_in_training": trained.config.lora.quantise,
        **{key: value for key, value in asdict(export).items() if key != "folder"},
        "versions": {name: version(name) for name in ("tokensieve", "torch", "transformers", "peft")},
    }
    (folder / RECORD).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
