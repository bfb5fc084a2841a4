"""Every error a user can meet. Each message names the subject, the rule, what was received and the remedy."""

from __future__ import annotations


class TokensieveError(Exception):
    """Base of all errors that the command line reports in one line, without a traceback.

    Args:
        subject: the config key, or the file and row, at fault (`stm.threshold`, `data.jsonl:12`).
        rule: what was expected.
        received: what was found; omitted from the message when `None`.
        remedy: what the user can do.

    >>> print(ConfigError("stm.threshold", "must be a perplexity above 0", received=-1, remedy="try 2.5"))
    stm.threshold: must be a perplexity above 0; received -1. Remedy: try 2.5.
    """

    def __init__(self, subject: str, rule: str, *, received: object = None, remedy: str = "") -> None:
        self.subject = subject
        self.rule = rule
        self.received = received
        self.remedy = remedy
        found = "" if received is None else f"; received {received!r}"
        advice = f" Remedy: {remedy}." if remedy else ""
        super().__init__(f"{subject}: {rule}{found}.{advice}")

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        # Errors cross process borders in a sweep; the default reduction would replay only the message.
        return _rebuild, (type(self), self.subject, self.rule, self.received, self.remedy)


def _rebuild(kind: type[TokensieveError], subject: str, rule: str, received: object, remedy: str) -> TokensieveError:
    return kind(subject, rule, received=received, remedy=remedy)


class ConfigError(TokensieveError):
    """A config value or combination that cannot work; raised before any model loads."""


class CombinationError(ConfigError):
    """Two choices, each fine by itself, that make no sense together: a sweep leaves the combination out."""


class DataError(TokensieveError):
    """A source file or row that cannot be read as the dataset's layout says."""


class AlignmentError(TokensieveError):
    """Token ids, response spans or imported scores that do not describe the same text."""


class EmptyMask(TokensieveError):
    """A token rule that keeps no response token of the whole corpus."""


class CacheError(TokensieveError):
    """The cache or an output folder cannot be written or read."""


class TrainingError(TokensieveError):
    """A fit that cannot go on: a loss that is not finite, or a checkpoint of another run."""


class SandboxError(TokensieveError):
    """The sandbox cannot run at all (not: the program in it failed)."""


class SweepError(TokensieveError):
    """A sweep that cannot start or resume: another process runs it, its manifest is damaged, its plan changed."""


class TrialPruned(TokensieveError):
    """No fault: a trial of a search that its pruner ended early, because trials before it were better."""
