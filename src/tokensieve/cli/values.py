"""Values of command-line options, for argparse's `type`; argparse names the option of an ArgumentTypeError."""

from __future__ import annotations

import argparse


def names(text: str) -> list[str]:
    """`a,b,a` -> [a, b]."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def numbers(text: str) -> list[float]:
    """`1.5,2.5` -> [1.5, 2.5]."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        rule = "must be numbers with commas between them, like 1.5,2.5,4"
        raise argparse.ArgumentTypeError(f"{rule}; got {text!r}") from None


def count(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text!r}")
    return value
