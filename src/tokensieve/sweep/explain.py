"""One clear line out of Hydra's and OmegaConf's long errors: the key, what was expected, what was found, a remedy."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from tokensieve.config import RunConfig
from tokensieve.errors import ConfigError, TokensieveError

_TYPE_WORDS = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    list: "a list, such as [a,b]",
    dict: "a mapping, such as {key: value}",
}
_KEYS_REMEDY = "python train.py --cfg job lists every key"


def schema_keys(schema: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every dotted key of a schema dataclass with its type; groups before their fields.

    >>> dict(schema_keys())["stm.threshold"]
    <class 'float'>
    """
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        yield f"{prefix}{field.name}", kind
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from schema_keys(kind, f"{prefix}{field.name}.")


def describe_type(kind: object) -> str:
    """
    >>> describe_type(typing.Optional[float]), describe_type(typing.Literal["a", "b"])
    ('a number or null', 'one of a, b')
    """
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(part) for part in typing.get_args(kind))
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return f"a group of keys ({', '.join(field.name for field in dataclasses.fields(kind)[:4])}, ...)"
    return _TYPE_WORDS.get(typing.cast(type, origin or kind), str(kind))


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """A remedy, or nothing; a bare field name finds its group.

    >>> suggest("stm.treshold", ["stm.threshold", "seed"]), suggest("threshold", ["stm.threshold"])
    ('perhaps you mean stm.threshold', 'perhaps you mean stm.threshold')
    >>> suggest("x", ["seed"])
    ''
    """
    names = list(known)
    ending = [name for name in names if name.rpartition(".")[2] == word]
    close = ending or difflib.get_close_matches(word, names, n=2, cutoff=0.7)
    return f"perhaps you mean {' or '.join(close)}" if close else ""


def explain(error: Exception) -> TokensieveError:
    """The error of one line that stands for `error`, which Hydra or OmegaConf raised while it composed a config."""
    if isinstance(error, TokensieveError):
        return error
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if isinstance(error, OverrideParseException):
        text = error.override
        remedy = "write key=value; quote a value that holds more than letters, digits and -_./: 'key=\"a, b\"'"
        return ConfigError(
            text.partition("=")[0] or "command line", "cannot be read as key=value", received=text, remedy=remedy
        )
    text = str(error)
    ambiguous = re.match(r"Ambiguous value for argument '(.*)'$", text.partition("\n")[0])
    if ambiguous:
        key, _, value = ambiguous.group(1).partition("=")
        remedy = f"add -m to sweep over them, or write {key}=[{value}] for one list"
        return ConfigError(key, "takes one value", received=value, remedy=remedy)
    cause = _omegaconf_cause(error)
    place = re.match(r"In '(.+?)': ", text)
    if cause is not None and cause.full_key:
        override = re.match(r"Error merging override (.*)", text.partition("\n")[0])
        value = override.group(1).partition("=")[2] if override else None
        return _bad_key(cause, place.group(1) if place else "", value)
    return ConfigError("config", _flatten(text) or type(error).__name__, remedy="debug=true shows where")


def _omegaconf_cause(error: BaseException) -> OmegaConfBaseException | None:
    step: BaseException | None = error
    while step is not None and not isinstance(step, OmegaConfBaseException):
        step = step.__cause__ or step.__context__
    return step


def _missing_option(error: MissingConfigException) -> ConfigError:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not error.options:
        return ConfigError(
            error.missing_cfg_file or "config",
            "no such file in the config folders",
            remedy="python train.py --help lists the groups and their options",
        )
    options = sorted({*error.options} - {"basic"})  # Hydra's own, whose sweeps keep no record
    remedy = suggest(option, options) or "choose one of them"
    if group == "hydra/launcher":
        remedy = "launcher=slurm and launcher=ray need no plugin of Hydra"
    return ConfigError(group, f"must be one of {', '.join(options)}", received=option, remedy=remedy)


def _bad_key(cause: OmegaConfBaseException, file: str, value: str | None) -> ConfigError:
    key = str(cause.full_key)
    subject = f"conf/{file}.yaml: {key}" if file else key
    known = dict(schema_keys())
    first_line = str(cause).partition("\n")[0]
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        if "in struct" in first_line and not key.startswith("hydra."):  # a free mapping, such as dataset.reference
            return ConfigError(subject, "is not there yet", remedy=f"write +{key}=... to add it")
        return ConfigError(subject, "no such key", remedy=suggest(key, known) or _KEYS_REMEDY)
    if isinstance(cause, ValidationError) and key in known:
        return ConfigError(subject, f"must be {describe_type(known[key])}", received=value or _flatten(first_line))
    return ConfigError(subject, _flatten(first_line), received=value)


def _flatten(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()).rstrip(".")


def is_config_error(error: Exception) -> bool:
    """Whether the composition of a config raised it: by its type, or because the last frame is Hydra's or YAML's."""
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return module.partition(".")[0] in ("hydra", "omegaconf", "yaml")


__all__ = ["describe_type", "explain", "is_config_error", "schema_keys", "suggest"]
