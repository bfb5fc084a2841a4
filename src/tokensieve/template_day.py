"""Chat templates that print today's date: what is scored, trained and evaluated on several days needs one day.

Llama 3.2's and SmolLM3's call `strftime_now`. Without it they print the day that is fixed here.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# 26 July 2024, midnight, in the codes that templates use.
_CODES: Final = {
    "%d": "26",
    "%m": "07",
    "%Y": "2024",
    "%y": "24",
    "%b": "Jul",
    "%B": "July",
    "%a": "Fri",
    "%A": "Friday",
    "%H": "00",
    "%I": "12",
    "%M": "00",
    "%S": "00",
    "%p": "AM",
}
_FILTERS: Final = "".join(f" | replace('{code}', '{text}')" for code, text in _CODES.items())
_FIXED: Final = f"{{%- macro strftime_now(format) -%}}{{{{ format{_FILTERS} }}}}{{%- endmacro %}}"


def fix_day(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a template that prints the day print 26 July 2024."""
    template = tokenizer.chat_template
    if isinstance(template, str) and "strftime_now" in template:
        tokenizer.chat_template = _FIXED + template


def with_own_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of `tokenizer` with its template as published, for a checkpoint that is handed on."""
    own = copy.deepcopy(tokenizer)
    if isinstance(own.chat_template, str):
        own.chat_template = own.chat_template.removeprefix(_FIXED)
    return own
