"""A training step under a mask against a plain PEFT loop and TRL's SFTTrainer, every size, vocabulary and dtype.

    python experiments/speed/training.py [--every] [--quick] [--out FILE]

The three train the same batches side by side in this process, a step each in turn (relay.py), and must have the same
loss curve. Batches are drawn without regard to length; what grouping by length and leaving out padding add is measured
by padding.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loops import LOOPS, RANK, Training, make_loader
from peers import install_peers
from products import Products, training_shapes
from relay import Pause, Relay
from synthetic import SIZES, build_config, draw_rows, list_cases
from timing import LIMIT, OURS, VoidRatio, check_equal, compare, pin, read_options, write_result

WARM_STEPS = 1
TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}  # nats


def plan(size: str, vocabulary: int, dtype: str, num_steps: int) -> Training:
    batch_rows = SIZES[size].rows
    rows = draw_rows(num_steps * batch_rows, vocabulary)
    steps = [step.tolist() for step in make_loader(rows, batch_rows, num_steps).steps]
    return Training(size, vocabulary, dtype, rows, steps, batch_rows)


def measure(size: str, vocabulary: int, dtype: str, repeats: int, threads: int) -> dict[str, Any]:
    """One case: seconds of a step, ratios, the share of the limit, and how far the loss curves are apart."""
    job = plan(size, vocabulary, dtype, 1 + WARM_STEPS + repeats)
    curves: dict[str, list[float]] = {}

    def start(name: str) -> Callable[[Pause], None]:
        def loop(pause: Pause) -> None:
            curves[name] = LOOPS[name](job, pause)

        return loop

    config = build_config(size, vocabulary)
    products = []
    for step in job.steps:
        batch = [job.rows[number] for number in step]
        shapes = training_shapes(config, [len(row.ids) for row in batch], sum(sum(row.keep) for row in batch), RANK)
        products.append(Products(shapes, dtype))
        products[-1]()  # its memory is then mapped

    def multiply(pause: Pause) -> None:
        for some in products:
            some()
            pause()

    relay = Relay({name: start(name) for name in LOOPS} | {LIMIT: multiply}, threads)
    relay.run(len(job.steps))
    seconds = {name: times[WARM_STEPS : WARM_STEPS + repeats] for name, times in relay.seconds.items()}
    checks = []
    for name, curve in curves.items():
        if name != OURS:
            difference = max(abs(ours - theirs) for ours, theirs in zip(curves[OURS], curve, strict=True))
            checks.append(check_equal(f"loss curves of ours and {name}", difference, TOLERANCE[dtype]))
    row = compare(seconds)
    measured = slice(1 + WARM_STEPS, 1 + WARM_STEPS + repeats)
    tokens = sum(len(job.rows[number].ids) for step in job.steps[measured] for number in step)
    rate = sum(some.flops for some in products[measured]) / sum(seconds[LIMIT]) / 1e9
    return row | {"tokens": tokens, "limit_gflops": rate, "checks": checks}


def main() -> None:
    options = read_options(__doc__, more=lambda parser: parser.add_argument("--every", action="store_true"))
    install_peers()
    pin(options.threads)
    cases = list_cases(every=options.every)
    rows = []
    for size, vocabulary, dtype in cases[:2] if options.quick else cases:
        case = {"size": size, "vocabulary": vocabulary, "dtype": dtype}
        try:
            rows.append(case | measure(size, vocabulary, dtype, options.repeats, options.threads))
        except VoidRatio as error:
            rows.append(case | {"void": str(error)})
    write_result({"work": "training", "threads": options.threads, "rows": rows}, options.out)


if __name__ == "__main__":
    main()
