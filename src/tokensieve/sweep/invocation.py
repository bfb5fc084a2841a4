"""The command line of a sweep as text: what starts it, resumes it, or would repeat it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Quote, QuotedString

from tokensieve.sweep.compose import key_of

_PLAIN = re.compile(r"[\w./@%+-]*")
_FLAGS_WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
_OF_HYDRA = ("hydra.", "hydra/", "+hydra", "~hydra", "--config-")


@dataclass(frozen=True, slots=True)
class Invocation:
    """A command in its parts. `options`: Hydra's flags, each with its value, and overrides of Hydra's own config."""

    script: str
    options: list[tuple[str, ...]]
    overrides: list[str]

    @classmethod
    def read(cls, argv: Sequence[str]) -> Invocation:
        """Of `[script, *arguments]`; flags that ask for something else than a config are left out.

        >>> Invocation.read(["train.py", "-m", "-cd", "my conf", "seed=1,2", "hydra.verbose=true", "--info"])
        Invocation(script='train.py', options=[('-cd', 'my conf'), ('hydra.verbose=true',)], overrides=['seed=1,2'])
        """
        options: list[tuple[str, ...]] = []
        overrides: list[str] = []
        rest = iter(argv[1:])
        for argument in rest:
            if argument in _FLAGS_WITH_VALUE:
                options.append((argument, next(rest, "")))
            elif argument.startswith(_OF_HYDRA):
                options.append((argument,))
            elif not argument.startswith("-"):
                overrides.append(argument)
        return cls(argv[0] if argv else "train.py", options, overrides)

    @classmethod
    def parse(cls, command: str) -> Invocation:
        """Inverse of `to_command`."""
        return cls.read(shlex.split(command)[1:])

    def to_command(self) -> str:
        words = [word for option in self.options for word in option]
        return shlex.join(["python", self.script, "-m", *words, *self.overrides])

    def under(self, later: Invocation) -> Invocation:
        """Both in one command, where the later one wins.

        >>> first = Invocation.parse("python train.py -m hydra.sweeper.arms=a.yaml lora=r32 seed=1,2")
        >>> first.under(Invocation.parse("python train.py -m seed=1,2,3 sweep.resume=latest")).to_command()
        'python train.py -m hydra.sweeper.arms=a.yaml lora=r32 seed=1,2,3'
        """
        options = {key_of(option[0]): option for option in (*self.options, *later.options)}
        overrides = {key_of(text): text for text in (*self.overrides, *later.overrides)}
        kept = [text for key, text in overrides.items() if key != "sweep.resume"]
        return Invocation(self.script, list(options.values()), kept)


def quote_value(value: str) -> str:
    """A value as Hydra's override grammar and the shell both read it.

    >>> print(quote_value("outputs/sweeps/a"), quote_value("my runs/a,b"))
    outputs/sweeps/a '"my runs/a,b"'
    """
    return value if _PLAIN.fullmatch(value) else shlex.quote(in_quotes(value))


def in_quotes(text: str) -> str:
    """A text as Hydra's override grammar reads it back, backslashes and line ends among it."""
    return QuotedString(text, Quote.double).with_quotes()


def resume_command(argv: Sequence[str], folder: str, controllers: Iterable[str] = ()) -> str:
    """The command that resumes the sweep in `folder`: Hydra's flags and overrides, and the choice of search, are kept.

    >>> resume_command(["train.py", "-m", "--config-dir", "my conf", "seed=1,2", "hydra.verbose=true"], "sweeps/a")
    "python train.py -m --config-dir 'my conf' hydra.verbose=true sweep.resume=sweeps/a"
    """
    given = Invocation.read(argv)
    kept = Invocation(given.script, given.options, list(controllers))
    return f"{kept.to_command()} sweep.resume={quote_value(folder)}"
