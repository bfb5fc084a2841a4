"""Who wrote the responses: the data's authors, a model, or a model under supervision (STM section 3; RobustFT)."""

from tokensieve.variant.definition import VARIANTS, define_variant
from tokensieve.variant.reading import read_variant_ledger, read_variant_report
from tokensieve.variant.settings import VariantSettings

__all__ = ["VARIANTS", "VariantSettings", "define_variant", "read_variant_ledger", "read_variant_report"]
