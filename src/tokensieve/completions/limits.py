"""How long an endpoint is waited for, and how often it may be asked."""

from __future__ import annotations

from dataclasses import dataclass

from tokensieve.completions.chat_protocol import EndpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When to try again, and when not.

    Attributes:
        timeout_seconds: limit of one attempt, from connecting to the answer's last byte.
        max_attempts: of one request, >= 1.
        first_backoff_seconds: bound of the wait before the second attempt, which is drawn from 0 to it; doubles with
            every attempt, up to a minute.
        longest_wait_seconds: a server that asks for a longer wait is an error.
    """

    timeout_seconds: float
    max_attempts: int
    first_backoff_seconds: float
    longest_wait_seconds: float


@dataclass(slots=True)
class Budget:
    """HTTP requests that may be sent, repeated ones counted; None: any number."""

    max_requests: int | None
    num_sent: int = 0

    def spend(self) -> None:
        """Count one more.

        Raises:
            EndpointError: there is none left.
        """
        if self.max_requests is not None and self.num_sent >= self.max_requests:
            raise EndpointError(
                "max_requests",
                f"the budget of {self.max_requests} requests is spent",
                remedy="raise it and run again; what was answered is kept and not asked for again",
            )
        self.num_sent += 1
