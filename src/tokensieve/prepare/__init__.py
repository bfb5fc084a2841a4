"""The training data of a run as files for other trainers: the examples as text, or their tokens with the mask."""

from tokensieve.prepare.formats import FORMATS
from tokensieve.prepare.records import Prepared, PreparedSplit
from tokensieve.prepare.summary import print_summary
from tokensieve.prepare.write import prepare_data

__all__ = ["FORMATS", "Prepared", "PreparedSplit", "prepare_data", "print_summary"]
