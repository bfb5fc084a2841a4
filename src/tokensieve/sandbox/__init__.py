"""Isolated execution of untrusted programs and queries. Nothing of theirs runs in our process."""

from tokensieve.sandbox.pool import containment, run_jobs
from tokensieve.sandbox.records import Outcome, Program, Query, Verdict
from tokensieve.sandbox.worker_process import Containment

__all__ = ["Containment", "Outcome", "Program", "Query", "Verdict", "containment", "run_jobs"]
