"""Talking to a model, with its adapter on or off."""

from tokensieve.chat.session import open_conversation, talk

__all__ = ["open_conversation", "talk"]
