"""Prompt templates: compiled once, rendered for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.errors import ConfigError
from tokensieve.graders.choice import read_labels
from tokensieve.prompt_wordings import ANSWER_FORMS
from tokensieve.variant.example import Example
from tokensieve.variant.settings import VariantSettings

if TYPE_CHECKING:
    from jinja2 import Template


class Prompt:
    """A Jinja template of the last user turn. Sandboxed: a template may come with somebody else's config.

    It may use `question`, `response` (the data's own), `labels` and `answer_form`; besides, `examples` (each with
    `question` and `response`) where rows were retrieved, and `candidates` (texts) where answers are reviewed.
    """

    def __init__(self, key: str, text: str) -> None:
        from jinja2 import StrictUndefined, TemplateSyntaxError
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self.key = f"variant.{key}"
        try:
            self.template: Template = environment.from_string(text)
        except TemplateSyntaxError as error:
            remedy = "correct the template"
            raise ConfigError(self.key, "must be a Jinja template", received=str(error), remedy=remedy) from None

    def render(self, **values: Any) -> str:
        """The text.

        Raises:
            ConfigError: the template uses what it is not given, or fails.
        """
        from jinja2 import TemplateError

        try:
            return self.template.render(**values).strip()
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ConfigError(
                self.key,
                f"must be a template over {', '.join(sorted(values))}",
                received=str(error),
                remedy="correct the template",
            ) from None

    def about(self, example: Example, grader: str | None, **more: Any) -> str:
        """The text for one row."""
        labels = list(read_labels(example.reference)) if grader == "choice" else []
        form = ANSWER_FORMS.get(grader or "", "").format(labels=", ".join(labels))
        given = {"question": example.question, "response": example.response, "labels": labels, "answer_form": form}
        return self.render(**given, **more)


def check_prompts(settings: VariantSettings) -> None:
    """Compile and try the templates that this variant uses, before anything is asked.

    Raises:
        ConfigError: one is no template, or uses what it will not be given.
    """
    row: dict[str, Any] = {"question": "q", "response": "r"}
    about_row = row | {"labels": ["A"], "answer_form": "f"}
    given = {
        "context_prompt": about_row | {"examples": [row]},
        "review_prompt": about_row | {"candidates": ["c"]},
        "instruct_prompt": {"examples": [row], "num": 1},
    }
    for key in settings.identity():
        if key.endswith("_prompt"):
            Prompt(key, getattr(settings, key)).render(**given.get(key, about_row))


def as_shots(examples: Sequence[Example]) -> list[dict[str, str]]:
    """Retrieved rows as a template sees them."""
    return [{"question": example.question, "response": example.response} for example in examples]
