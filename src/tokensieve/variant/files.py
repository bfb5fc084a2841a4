"""Names of the files in a variant's folder."""

from typing import Final

DATA_FILE: Final = "data.arrow"
LEDGER_FILE: Final = "ledger.jsonl"
REPORT_FILE: Final = "variant.json"
