"""The model of a call: a run's folder, a model's folder, a hub id, or the packaged lab model."""

from __future__ import annotations

from pathlib import Path

from tokensieve.trained_model import TrainedModel, choose_model


def find_model(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    revision: str | None = None,
    chat_template: str | Path | None = None,
    dtype: str = "auto",
    accelerator: str = "auto",
) -> TrainedModel:
    """What `model` names: a folder with a run's config.yaml is a run, with the weights that it trained.

    Raises:
        ConfigError: no such run, adapter or model, or an adapter beside a run.
    """
    path = Path(model).expanduser()
    is_run = (path / "config.yaml").is_file() or (path / "sweep.json").is_file()  # a sweep is told which of its jobs
    return choose_model(
        path if is_run else None,
        model=None if is_run else str(path) if path.is_dir() else str(model),
        adapter=Path(adapter).expanduser() if adapter is not None else None,
        revision=revision,
        chat_template=Path(chat_template).expanduser() if chat_template is not None else None,
        dtype=dtype,
        accelerator=accelerator,
    )
