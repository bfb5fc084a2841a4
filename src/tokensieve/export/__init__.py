"""A trained model as an ordinary checkpoint: the adapter merged, the result checked, and pushed where asked."""

from tokensieve.export.checkpoint import export_model
from tokensieve.export.hub import HubRepository, open_repository
from tokensieve.export.records import Export

__all__ = ["Export", "HubRepository", "export_model", "open_repository"]
