"""A page to look at tokens: coloured by perplexity, marked where they are masked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensieve.errors import CacheError
from tokensieve.records import MaskStats
from tokensieve.report.figure import HEIGHT, WIDTH, new_figure, to_svg
from tokensieve.report.page import render
from tokensieve.report.token_counts import BIN_WIDTH, NUM_PARTS, TokenCounts, TokenRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TokenRow", "write_token_page"]

SHOWN_EXAMPLES = 50
SHOWN_TOKENS = 40_000  # on the whole page: about 4 MB
TOKENS_OF_ONE = 3_000
# The thresholds of the STM paper divide the colours. ColorBrewer's YlOrBr, safe for colour-blind readers.
COLOUR_BORDERS = (1.5, 2.5, 4.0, 10.0, 25.0, 100.0, 1000.0)
_KEPT, _MASKED = "#0072B2", "#D55E00"
_VISIBLE = {"\n": "⏎\n", "\t": "⇥\t", "\r": "␍"}


def write_token_page(
    path: Path,
    *,
    examples: Iterable[TokenRow],
    title: str,
    stats: MaskStats | None = None,
    threshold: float | None = None,
) -> None:
    """Write the page to `path`: the first 50 examples token by token, the summary and the distributions over all.

    Args:
        path: the HTML file.
        examples: read once; the tokens of those after the first 50 need no text.
        title: heading, such as the run's name.
        stats: the mask's own numbers, shown instead of counted ones.
        threshold: perplexity drawn into the distribution; None for rules without one.

    Raises:
        CacheError: the file cannot be written.
    """
    from markupsafe import Markup

    counts, room = TokenCounts(), SHOWN_TOKENS
    shown: list[dict[str, Any]] = []
    for row in examples:
        on_page = len(shown) < SHOWN_EXAMPLES and room > 0
        counts.add(row, with_pieces=on_page)
        if on_page:
            limit = min(room, TOKENS_OF_ONE)
            shown.append(_example(row, limit))
            room -= min(limit, len(row.tokens))
    figures = []
    if counts.scored_tokens:
        figure = _draw_distribution(counts, threshold)
        figures.append(
            (
                Markup(to_svg(figure, "Distribution of perplexity", "ppl")),
                "Response tokens by perplexity. The last possible bar holds all above 800,000.",
            )
        )
    if counts.response_tokens > counts.kept_tokens:
        caption = "Masked share by place in the response, in tenths from its beginning to its end."
        figures.append((Markup(to_svg(_draw_places(counts), caption, "place")), caption))
    text = render(
        "tokens.html.j2",
        title=title,
        summary=_summary(counts, stats, threshold),
        legend=_legend(),
        has_scores=counts.scored_tokens > 0,
        figures=figures,
        pieces=[(visible(piece).strip("\n"), number) for piece, number in counts.masked_pieces.most_common(24)],
        examples=shown,
        num_examples=counts.num_examples,
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        remedy = "free disk space or correct the permissions"
        raise CacheError(str(path), "must be writable", received=error.strerror, remedy=remedy) from error


def visible(piece: str) -> str:
    """A token's text with what cannot be seen made visible; the space before a word stays a space.

    >>> visible("  "), visible(" word"), visible("\\n"), visible("")
    ('··', ' word', '⏎\\n', '∅')
    """
    if not piece:
        return "∅"
    if piece.isspace():
        piece = piece.replace(" ", "·")
    return "".join(
        _VISIBLE.get(sign, sign if sign.isprintable() or sign == "\n" else f"\\u{ord(sign):04x}") for sign in piece
    )


def format_ppl(nll: float) -> str:
    """
    >>> format_ppl(0.0), format_ppl(math.log(1234.5)), format_ppl(50.0), format_ppl(1e9), format_ppl(math.nan)
    ('1.00', '1235', '5.2e+21', 'over 1e300', 'not scored')
    """
    if math.isnan(nll):
        return "not scored"
    if nll > 690:
        return "over 1e300"
    ppl = math.exp(nll)
    return f"{ppl:.2f}" if ppl < 100 else f"{ppl:.0f}" if ppl < 1e6 else f"{ppl:.1e}"


def _example(row: TokenRow, limit: int) -> dict[str, Any]:
    response = [place for place, inside in enumerate(row.is_response) if inside]
    kept = sum(row.keep[place] for place in response)
    return {
        "id": row.id,
        "spans": list(_spans(row, limit)),
        "kept": kept,
        "response": len(response),
        "cut": max(0, len(row.tokens) - limit),
    }


def _spans(row: TokenRow, limit: int) -> Iterator[tuple[str, str, str]]:
    """(classes, tooltip, text) of each token; the prompt is one span."""
    prompt: list[str] = []
    for piece, nll, inside, keep in zip(row.tokens[:limit], row.nll, row.is_response, row.keep, strict=False):
        if not inside:
            prompt.append(piece)
            continue
        if prompt:
            yield "p", "", "".join(prompt)
            prompt = []
        colour = (
            "" if math.isnan(nll) else f"c{np.searchsorted(COLOUR_BORDERS, math.exp(min(nll, 690.0)), side='left')}"
        )
        yield (
            f"{colour}{'' if keep else ' m'}".strip(),
            f"ppl {format_ppl(nll)}{'' if keep else ', masked'}",
            visible(piece),
        )
    if prompt:
        yield "p", "", "".join(prompt)


def _summary(counts: TokenCounts, stats: MaskStats | None, threshold: float | None) -> list[tuple[str, str]]:
    def share(part: float, whole: float) -> str:
        return f"{100 * part / whole:.2f} %" if whole else "-"

    response = stats.response_tokens if stats else counts.response_tokens
    kept = stats.kept_tokens if stats else counts.kept_tokens
    examples = stats.num_examples if stats else counts.num_examples
    empty = stats.dropped_examples if stats else counts.empty
    ends = (
        f"{100 * stats.end_kept_fraction:.2f} %"
        if stats and math.isfinite(stats.end_kept_fraction)
        else share(counts.end_kept, counts.with_response)
    )
    lines = [
        ("kept", f"{share(kept, response)} of the response tokens ({kept:,} of {response:,})"),
        ("masked", f"{share(response - kept, response)} ({response - kept:,})"),
        ("end token kept", f"in {ends} of the examples"),
        (
            "empty examples",
            f"{empty:,} of {examples:,} keep no token and are not trained" if empty else f"none of {examples:,}",
        ),
    ]
    if counts.scored_tokens:
        lines.append(
            ("masked NLL", f"{share(counts.masked_nll, counts.nll)} of the response's NLL lies in masked tokens")
        )
        lines.append(("perplexity", f"{format_ppl(counts.nll / counts.scored_tokens)} over all response tokens"))
    if threshold is not None:
        lines.append(("threshold", f"{threshold:g}"))
    return lines


def _legend() -> list[tuple[str, str]]:
    """(class, range of perplexity)"""
    texts = [f"up to {COLOUR_BORDERS[0]:g}"]
    texts += [f"to {border:g}" for border in COLOUR_BORDERS[1:]]
    return [(f"c{place}", text) for place, text in enumerate([*texts, f"above {COLOUR_BORDERS[-1]:g}"])]


def _draw_distribution(counts: TokenCounts, threshold: float | None) -> Figure:
    figure = new_figure(WIDTH, HEIGHT, 1)
    axes = figure.axes[0]
    used = max(np.flatnonzero(counts.kept_bins + counts.masked_bins), default=9) + 1
    left = np.arange(used) * BIN_WIDTH
    style: dict[str, Any] = {"width": BIN_WIDTH, "align": "edge", "alpha": 0.75, "linewidth": 0}
    axes.bar(left, counts.kept_bins[:used], color=_KEPT, label="kept", **style)
    if counts.masked_bins.any():
        axes.bar(
            left, counts.masked_bins[:used], color=_MASKED, label="masked", hatch="///", edgecolor="white", **style
        )
    if threshold is not None and threshold > 0:
        axes.axvline(math.log10(threshold), color="black", linewidth=1.4, label=f"threshold {threshold:g}")
    axes.set_yscale("log")
    powers = range(math.ceil(used * BIN_WIDTH) + 1)
    axes.set_xticks(list(powers), [f"{10**power:,}" if power < 5 else f"1e{power}" for power in powers])
    axes.set_xlabel("perplexity")
    axes.set_ylabel("response tokens")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _draw_places(counts: TokenCounts) -> Figure:
    figure = new_figure(WIDTH, HEIGHT, 1)
    axes = figure.axes[0]
    shares = 100 * counts.part_masked / np.maximum(counts.part_tokens, 1)
    axes.bar(np.arange(1, NUM_PARTS + 1), shares, color=_MASKED, width=0.8)
    axes.set_xticks(range(1, NUM_PARTS + 1))
    axes.set_xlabel("tenth of the response")
    axes.set_ylabel("masked, %")
    return figure
