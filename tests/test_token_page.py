"""The page that shows tokens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from test_report import check_page

from tokensieve.errors import CacheError
from tokensieve.records import MaskStats
from tokensieve.report.token_counts import TokenCounts
from tokensieve.report.tokens import TokenRow, write_token_page

NLL = math.log(2.0)


def row(name: str = "a", **changes: object) -> TokenRow:
    values = {
        "id": name,
        "tokens": ["Q", ":", "x", "\n", "<b>", "  ", "<|end|>"],
        "nll": [math.nan, 1.0, 0.0, NLL, 5.0, 800.0, 0.01],
        "is_response": [False, False, True, True, True, True, True],
        "keep": [False, False, True, True, False, False, True],
    }
    return TokenRow(**{**values, **changes})  # type: ignore[arg-type]


def test_counts_by_hand() -> None:
    counts = TokenCounts()
    counts.add(row(), with_pieces=True)
    counts.add(row(keep=[False] * 7), with_pieces=False)
    counts.add(row(is_response=[False] * 7, keep=[False] * 7), with_pieces=False)
    assert (counts.num_examples, counts.with_response, counts.empty, counts.end_kept) == (3, 2, 2, 1)
    assert (counts.response_tokens, counts.kept_tokens) == (10, 3)
    assert counts.kept_bins[0] == 2
    assert counts.kept_bins[3] == 1  # log10(2) = 0.301
    assert counts.masked_bins[-1] == 2
    assert counts.part_tokens.sum() == 10
    assert counts.part_masked[[0, 2, 4, 6, 8]].tolist() == [1, 1, 2, 2, 1]
    assert counts.masked_pieces == {"<b>": 1, "  ": 1}


def test_page_marks_masked_tokens_and_shows_what_cannot_be_seen(tmp_path: Path) -> None:
    stats = MaskStats(1, 0, 5, 3, 0.9, 1.0)
    write_token_page(tmp_path / "page.html", examples=[row("<id>")], title="a & b", stats=stats, threshold=2.5)
    text = check_page(tmp_path / "page.html")
    assert "a &amp; b" in text
    assert "&lt;id&gt;" in text
    assert '<b class="c6 m" title="ppl 148, masked">&lt;b&gt;</b>' in text
    assert '<b class="c7 m" title="ppl over 1e300, masked">··</b>' in text
    assert '<b class="c1" title="ppl 2.00">⏎\n</b>' in text
    assert '<b class="p">Q:</b>' in text
    assert "60.00 % of the response tokens (3 of 5)" in text
    assert "in 100.00 % of the examples" in text
    assert text.count("<svg") == 2
    assert "Tokens: 1 example<" in text


def test_page_is_limited_and_says_so(tmp_path: Path) -> None:
    write_token_page(tmp_path / "page.html", examples=(row(f"ex-{number}") for number in range(1234)), title="t")
    text = check_page(tmp_path / "page.html")
    assert "the first 50 of 1,234 examples" in text
    assert "ex-49 " in text
    assert "ex-50 " not in text
    assert "(3,702 of 6,170)" in text


def test_long_examples_are_cut(tmp_path: Path) -> None:
    size = 5000
    long = TokenRow("long", ["x"] * size, [1.0] * size, [False] + [True] * (size - 1), [False] + [True] * (size - 1))
    write_token_page(tmp_path / "page.html", examples=[long] * 50, title="t")
    text = check_page(tmp_path / "page.html")
    assert "2000 more tokens" in text
    assert len(text) < 3_000_000


def test_unscored_and_empty(tmp_path: Path) -> None:
    unscored = row(nll=[math.nan] * 7, keep=row().is_response)
    write_token_page(tmp_path / "a.html", examples=[unscored], title="t")
    assert "Not scored" in check_page(tmp_path / "a.html").replace("not scored", "")
    write_token_page(tmp_path / "b.html", examples=[], title="t", stats=MaskStats(0, 0, 0, 0, math.nan, math.nan))
    assert "No examples." in check_page(tmp_path / "b.html")


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="must be writable"):
        write_token_page(tmp_path / "no" / "page.html", examples=[], title="t")
