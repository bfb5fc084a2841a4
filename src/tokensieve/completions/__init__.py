"""Generation back ends, and the store that keeps what they were paid for."""

from tokensieve.completions.records import Backend, Completion, Decoding, Messages

__all__ = ["Backend", "Completion", "Decoding", "Messages"]
