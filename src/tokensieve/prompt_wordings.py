"""The default prompts of the variants: Jinja templates of the last user turn, and how each grader wants its answer."""

from collections.abc import Mapping
from typing import Final

# Grader -> where the final answer goes: told to the model where the question itself may not say it.
ANSWER_FORMS: Final[Mapping[str, str]] = {
    "choice": "End with one line that reads `Answer: X`, where X is one of {labels}.",
    "number": "End with one line that reads `#### N`, where N is the final number.",
    "code": "Give the whole program in one fenced Python block.",
    "sql": "Give one SQL query.",
    "math": "Put the final answer, and nothing else, into \\boxed{{}}.",
    "drop_em": "End with one line that reads `Answer: X`; put semicolons between several answers.",
    "drop_f1": "End with one line that reads `Answer: X`; put semicolons between several answers.",
}

REPHRASE: Final = """\
Below are a task and a correct answer to it. Say the answer again in your own words, the way you would have written it
yourself. Keep every fact, number, name, label and line of code that it rests on, and the form in which it states its
result. Write the new answer only.

Task:
{{ question }}

Answer:
{{ response }}"""

REASONING: Final = """\
{{ question }}

Work it out step by step. Then look at each step again and correct what does not hold. Only then give your answer.
{{ answer_form }}"""

CONTEXT: Final = """\
{% for example in examples %}
Question: {{ example.question }}
Answer: {{ example.response }}

{% endfor %}
{% if examples %}
The questions above are like this one, and have been answered. Answer this one in the same form.

{% endif %}
{{ question }}"""

REVIEW: Final = """\
{{ question }}

{% for candidate in candidates %}
Proposed answer {{ loop.index }}:
{{ candidate }}

{% endfor %}
Check each proposed answer against the question. They may agree, and they may all be wrong. Then give the right answer.
{{ answer_form }}"""

INSTRUCT: Final = """\
Here are some tasks that people have given to an assistant.

{% for example in examples %}
{{ loop.index }}. {{ example.question }}
{% endfor %}

Write {{ num }} more tasks of other kinds, as a numbered list. Each must stand by itself and hold all that is needed to
solve it. Do not solve them."""
