"""Child process: are two LaTeX answers mathematically the same? By math-verify, which parses and never evaluates code.

Run as a module. Request: `gold`, `answer` (bodies of a formula, without dollars). Reply: `same`, and `readable`, which
is false when the gold answer cannot be parsed.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from typing import Any

from tokensieve.graders.isolated.serve import refuse, serve

# Digits after the point that two decimals, or a decimal and an exact value, must share.
_DECIMALS = 12
# Every fork begins with the parser tables and imports that these left behind: a comparison then takes a tenth.
_WARM_UP = (
    ("1", "2"),
    ("x^2+2x+1", "(x+1)^2"),
    ("(\\frac{1}{2},3)", "(0.5,3)"),
    ("[1,2)\\cup(3,\\infty)", "x\\ge 3"),
    ("1500", "1.5\\times 10^3"),
    ("\\sin^2 x+\\cos^2 x", "\\log_2 8"),
    ("2\\sqrt{3}\\text{ cm}", "-\\sqrt[3]{12}\\pi"),
    ("y=2x+3", "y=3x+2"),
    ("\\{1,-2\\}", "1,-2"),
    ("50\\%", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"),
)


def compare(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Compare `request["answer"]` with `request["gold"]`; anything that fails to parse is not the same."""
    import math_verify

    # Its own limits are alarms that native code outlasts; this process is under the kernel's.
    kinds = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]
    gold, answer = (
        math_verify.parse(
            rf"\boxed{{{request[key]}}}",
            kinds,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        for key in ("gold", "answer")
    )
    same = math_verify.verify(
        gold, answer, float_rounding=_DECIMALS, allow_set_relation_comp=True, timeout_seconds=None
    )
    return {"same": bool(same), "readable": bool(gold)}


def main() -> None:
    """Serve, with the imports done once."""
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        refuse(f"the package math-verify[antlr4_13_2] cannot be imported: {error}")
        return
    logging.disable(logging.CRITICAL)
    for gold, answer in _WARM_UP:
        compare({"gold": gold, "answer": answer})
    gc.collect()
    gc.freeze()
    serve(compare)


if __name__ == "__main__":
    main()
