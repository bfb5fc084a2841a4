"""What is evaluated: a base model, alone or with trained weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.config import RunConfig
from tokensieve.installed import version
from tokensieve.model import template_identity
from tokensieve.records import EvalResult, Stamp
from tokensieve.resident import ResidentModel, base_identity
from tokensieve.store import Artefact, Store

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

VERSION = 1
RESULT_FILE = "result.json"


@dataclass(frozen=True, slots=True)
class Weights:
    """What was trained: its `identity` in stamps, and its folder, which may have to be made first."""

    identity: Any
    folder: Callable[[], Path]


@dataclass(frozen=True, slots=True)
class Subject:
    """The model of `config`, with `weights` where they are given, and where its results are kept."""

    config: RunConfig
    store: Store
    resident: ResidentModel
    weights: Weights | None

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, with the config's chat template."""
        from tokensieve.model import load_tokenizer

        config = self.config.model
        return load_tokenizer(config.path, config.revision, config.chat_template)

    def find_limit(self) -> int | None:
        """Tokens of prompt and answer together: the model's own limit, or a lower one of the config; None: no limit."""
        from tokensieve.length_limits import max_length

        config = self.config.model
        limits = (config.max_length, max_length(config.path, config.revision))
        return min((limit for limit in limits if limit is not None), default=None)

    def load_model(self) -> nn.Module:
        """The model."""
        model: Any = self.resident.base() if self.weights is None else self.resident.trained(self.weights.folder())
        loaded: nn.Module = model
        return loaded

    def define(self, inputs: Mapping[str, Any], evaluate: Callable[[], EvalResult]) -> Artefact[EvalResult]:
        """The result of `evaluate`, stamped by the model and by `inputs`."""
        config = self.config
        known = {
            "version": VERSION,
            "base": base_identity(config),
            "weights": self.weights.identity if self.weights is not None else None,
            "chat_template": template_identity(config.model.chat_template),
            "max_length": config.model.max_length,
            "libraries": {name: version(name) for name in ("torch", "transformers", "peft")},
        }

        def build(folder: Path) -> None:
            (folder / RESULT_FILE).write_text(json.dumps(asdict(evaluate())), encoding="utf-8")

        def load(folder: Path) -> EvalResult:
            return EvalResult(**json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")))

        return Artefact(Stamp("evaluate", {**known, **inputs}), self.store, build, load)
