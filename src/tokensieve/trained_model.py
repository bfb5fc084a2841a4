"""Which model a command is about: a base and what was trained on it, named by a run's folder or by hand."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokensieve.config import ModelConfig, RunConfig, from_yaml
from tokensieve.errors import ConfigError, DataError, TokensieveError
from tokensieve.model import model_identity, resolve_path
from tokensieve.run_folder import write_atomically

log = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
BASE_RECORD = "base.json"  # in a run's folder: what its base was, by content
_WEIGHTS = "adapter"  # in a run's folder: the adapter, or all weights after full fine-tuning


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A base model with what was trained on it.

    Attributes:
        config: its `model`, `lora.quantise` and `trainer.accelerator` say how the base is loaded.
        weights: a folder with an adapter or with all weights; None: the base alone.
        run: the run's folder, where one was named.
    """

    config: RunConfig
    weights: Path | None
    run: Path | None = None

    @property
    def is_adapter(self) -> bool:
        return self.weights is not None and (self.weights / ADAPTER_CONFIG).is_file()

    @property
    def label(self) -> str:
        """For people: the base, and what is on it."""
        what = f" with {self.run or self.weights}" if self.weights is not None else ""
        return f"{self.config.model.path}{what}"


def choose_model(
    run: Path | None = None,
    *,
    model: str | None = None,
    adapter: Path | None = None,
    revision: str | None = None,
    chat_template: Path | None = None,
    dtype: str = "auto",
    accelerator: str = "auto",
    trust_remote_code: bool = False,
) -> TrainedModel:
    """The model that the options of a command name. Loads nothing.

    Args:
        run: folder of a finished run; it names base, adapter and chat template itself.
        model: `lab`, a folder or a hub id. With `run`: another place of the run's base. None: the adapter's own base,
            or the packaged lab model.
        adapter: a PEFT adapter folder.
        revision: commit of a hub id.
        chat_template: a Jinja file that replaces, or supplies, the tokenizer's.
        dtype: auto, float32, bfloat16 or float16.
        accelerator: auto, cpu or gpu.
        trust_remote_code: run code that ships with the checkpoint.

    Raises:
        ConfigError: no such run, adapter or model, or options that contradict each other.
    """
    if run is not None and adapter is not None:
        raise ConfigError(
            "--adapter",
            "cannot stand beside a run, which has its own",
            received=str(adapter),
            remedy="name one of them",
        )
    config, weights = RunConfig(), _check_adapter(adapter) if adapter is not None else None
    if run is not None:
        config, weights = read_run_config(run), _find_weights(run)
    recorded, recorded_revision = _recorded_base(weights)
    own = config.model if run is not None else None
    path = model or (own.path if own else recorded or "lab")
    known = recorded_revision if own is None else own.revision
    config.model = ModelConfig(
        name=own.name if own else Path(path).name,
        path=path,
        revision=revision or (known if model is None else None),
        dtype=dtype if dtype != "auto" or own is None else own.dtype,  # type: ignore[arg-type]  # one of the four names
        attention="auto",  # the kernel of the training machine need not be here
        chat_template=str(chat_template) if chat_template else own.chat_template if own else None,
        max_length=own.max_length if own else None,
        adapter=own.adapter if own else None,
        trust_remote_code=trust_remote_code or bool(own and own.trust_remote_code),
    )
    config.trainer = replace(config.trainer, accelerator=accelerator)  # type: ignore[arg-type]  # one of three names
    model_identity(config.model.path, config.model.revision)  # a misspelt path is told before anything loads
    if recorded is not None and not _is_same_base(path, recorded):
        log.warning(
            "note: %s was trained on %s and is put on %s; if that is not the same model, the result is worthless",
            weights,
            recorded,
            path,
        )
    if weights is not None:
        _check_base_record(config, weights)
    return TrainedModel(config, weights, run)


def record_base(config: RunConfig, folder: Path) -> None:
    """Write into a run's folder what its base was: the checksums of a folder's files, or a hub id and its revision."""
    identity = model_identity(config.model.path, config.model.revision)
    write_atomically(folder / BASE_RECORD, json.dumps(identity, indent=1, sort_keys=True) + "\n")


def _check_base_record(config: RunConfig, weights: Path) -> None:
    """Say so where the base has other files than it had when these weights were trained; names do not tell that."""
    try:
        before = json.loads((weights.parent / BASE_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    now = model_identity(config.model.path, config.model.revision)
    if "files" not in now or not isinstance(before, dict) or "files" not in before:
        return
    one, other = before["files"], now["files"]
    changed = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    if changed:
        log.warning(
            "note: %s was trained on a base with another %s than %s has now; if that is not the same model, the result "
            "is worthless",
            *(weights, ", ".join(changed), config.model.path),
        )


def read_run_config(folder: Path) -> RunConfig:
    """The resolved config of a run folder.

    Raises:
        ConfigError: not a run folder. DataError: its config.yaml is damaged or of another version.
    """
    import yaml  # type: ignore[import-untyped]

    file = folder / "config.yaml"
    if not file.is_file():
        is_sweep = (folder / "sweep.json").is_file()
        raise ConfigError(
            "folder",
            "must be a run folder, with config.yaml",
            received=f"{folder}, a sweep" if is_sweep else str(folder),
            remedy=f"give one of {folder / 'jobs'}"
            if is_sweep
            else "give a folder below outputs/runs or a sweep's jobs",
        )
    try:
        return from_yaml(file.read_text(encoding="utf-8"))
    except TokensieveError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError, yaml.YAMLError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            str(file), "must be a run's resolved config", received=lines[0], remedy="run it again with this version"
        ) from error


def _find_weights(run: Path) -> Path:
    weights = run / _WEIGHTS
    if not (weights / ADAPTER_CONFIG).is_file() and not (weights / "config.json").is_file():
        raise ConfigError(
            str(run),
            "must be a finished run, with trained weights in adapter/",
            received="no weights",
            remedy="finish the run (python train.py with the same options resumes it)",
        )
    return weights


def _check_adapter(folder: Path) -> Path:
    if (folder / ADAPTER_CONFIG).is_file():
        return folder
    nested = (folder / _WEIGHTS).is_dir()
    raise ConfigError(
        "--adapter",
        f"must be a folder with {ADAPTER_CONFIG}",
        received=str(folder),
        remedy="that is a run: give it without --adapter" if nested else "give the adapter folder of a finished run",
    )


def _recorded_base(weights: Path | None) -> tuple[str | None, str | None]:
    """Base and revision that an adapter's config names."""
    if weights is None or not (weights / ADAPTER_CONFIG).is_file():
        return None, None
    file = weights / ADAPTER_CONFIG
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
        base, revision = values.get("base_model_name_or_path"), values.get("revision")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            str(file), "must be a PEFT adapter's config", received=str(error), remedy="copy the adapter again"
        ) from error
    return (str(base) if base else None), (str(revision) if revision else None)


def _is_same_base(path: str, recorded: str) -> bool:
    """Whether two names of a base are, as far as names tell, one model."""
    here, there = Path(resolve_path(path)), Path(resolve_path(recorded))
    if str(here) == str(there) or (here.exists() and there.exists() and here.samefile(there)):
        return True
    snapshot = f"models--{path.replace('/', '--')}"  # the hub's cache folder of an id
    return snapshot in there.parts or (path == "lab" and there.parts[-3:] == ("tokensieve", "lab", "base"))
