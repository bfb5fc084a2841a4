"""What happens to the responses of the training split before they are tokens: noise, then a variant."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tokensieve.completions import Backend
from tokensieve.config import RunConfig
from tokensieve.corpora import define_split, open_source
from tokensieve.errors import ConfigError
from tokensieve.model import template_identity
from tokensieve.noise import define_noise, fitting_kind
from tokensieve.records import Corpus, TokenisedCorpus, TokenScores
from tokensieve.resident import ResidentModel, base_identity
from tokensieve.sources import Source
from tokensieve.store import Artefact, Store
from tokensieve.tasks import TASKS
from tokensieve.variant import define_variant

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from tokensieve.retrieval import Embedder

COMPLETIONS_FILE = "completions.db"


def define_noisy(config: RunConfig, store: Store, source: Source, clean: Artefact[Corpus]) -> Artefact[Corpus]:
    """The training examples with the config's noise; `clean` itself without any."""
    noise, task = config.noise, TASKS.get(config.dataset.task or "")
    kind = fitting_kind(task.grader if task else None) if noise.name == "auto" else noise.name
    return define_noise(
        store,
        clean,
        kind=kind,
        ratio=noise.ratio,
        seed=noise.seed,
        rate=noise.rate,
        code_seconds=config.eval.code_seconds,
        noisy=_noisy_twin(config, store, source) if noise.name == "from_file" else None,
    )


def _noisy_twin(config: RunConfig, store: Store, source: Source) -> Artefact[Corpus]:
    """The same rows read from `noise.path`; a split that the clean twin publishes is not held out of this one."""
    if config.dataset.deduplicate != "none":
        raise ConfigError(
            "dataset.deduplicate",
            "must be none with noise=from_file: the twins would lose different rows",
            received=config.dataset.deduplicate,
            remedy="remove duplicates from both files beforehand",
        )
    is_published = {split: source.has_split(split) for split in ("validation", "test")}
    twin = replace(
        config.dataset,
        path=config.noise.path,
        val_fraction=0.0 if is_published["validation"] else config.dataset.val_fraction,
        test_fraction=0.0 if is_published["test"] else config.dataset.test_fraction,
    )
    try:
        return define_split(twin, store, open_source(twin), "train")
    except ConfigError as error:
        subject = "noise.path" if error.subject == "dataset.path" else error.subject
        raise ConfigError(subject, error.rule, received=error.received, remedy=error.remedy) from error


def define_rewritten(
    config: RunConfig,
    store: Store,
    corpus: Artefact[Corpus],
    resident: ResidentModel,
    losses: tuple[Artefact[TokenisedCorpus], Artefact[TokenScores]] | None,
) -> Artefact[Corpus]:
    """The training examples as the config's variant has them; `corpus` itself for ground_truth."""
    return define_variant(
        store,
        corpus,
        config.variant.settings(),
        backend=_backend(config, resident),
        completions=store.writable_root / COMPLETIONS_FILE,
        task=TASKS.get(config.dataset.task or ""),
        code_seconds=config.eval.code_seconds,
        embedder=_embedder(config, resident) if config.variant.embedding == "model" else None,
        losses=losses,
    )


def _backend(config: RunConfig, resident: ResidentModel) -> Backend:
    variant, model = config.variant, config.model
    if variant.backend == "openai":
        from tokensieve.completions.endpoint import EndpointBackend

        assert variant.base_url is not None  # the schema demands both
        assert variant.endpoint_model is not None
        return EndpointBackend(
            variant.base_url,
            variant.endpoint_model,
            api_key_variable=variant.api_key_variable,
            max_concurrency=variant.max_concurrency,
            timeout_seconds=variant.timeout_seconds,
            max_requests=variant.max_requests,
            max_attempts=variant.max_attempts,
            token_limit_field=variant.token_limit_field,
            with_logprobs=variant.with_logprobs,
            extra=variant.extra_body,
            deployment=variant.deployment,
        )
    from tokensieve.completions.local import LocalBackend

    identity = base_identity(config) | {"chat_template": template_identity(model.chat_template)}
    return LocalBackend(lambda: _load(config, resident), identity, variant.batch_size, model.max_length)


def _load(config: RunConfig, resident: ResidentModel) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    from tokensieve.model import load_tokenizer

    model = config.model
    return resident.base(), load_tokenizer(model.path, model.revision, model.chat_template)


def _embedder(config: RunConfig, resident: ResidentModel) -> Embedder:
    from tokensieve.retrieval import MeanPooling

    return MeanPooling(lambda: _load(config, resident), base_identity(config))
