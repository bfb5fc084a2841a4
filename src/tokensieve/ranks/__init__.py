"""A fit on several devices: a torchrun group whose ranks only fit, while the process that started it records.

`group` starts and watches the group of a job, `python -m tokensieve.ranks` is one of its ranks, and `joined` serves
programs that torchrun or srun has already started many times over.
"""

from tokensieve.ranks.layout import Layout, check_ranks, plan_ranks

__all__ = ["Layout", "check_ranks", "plan_ranks"]
