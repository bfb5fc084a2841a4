"""Config group `noise`: errors put into the training responses on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

from tokensieve.config.rule import require


@dataclass(kw_only=True, slots=True)
class NoiseConfig:
    """Errors put into the responses of the training split; validation and test stay clean."""

    name: Literal[
        "none",
        "auto",
        "label_flip",
        "answer_swap",
        "wrong_number",
        "wrong_code",
        "typo",
        "truncate",
        "repeat",
        "from_file",
    ] = "none"
    """Kind of error. auto: the kind that the task's grader sees (label_flip, wrong_number, wrong_code, else
    answer_swap). label_flip: another option, drawn uniformly. answer_swap: another example's response. wrong_number:
    another final number. wrong_code: an edit of the program after which it fails its tests. typo: slips in letters and
    words. truncate: the response breaks off. repeat: it gets stuck. from_file: the responses of a noisy file."""
    ratio: float = 0.0
    """Share of the training rows that are changed, in [0, 1]: round(ratio * N) of them; the rows of a smaller ratio are
    among those of a larger one."""
    seed: int = 0
    """Chooses the rows and their errors; not the run's seed, so that arms and run seeds share their noise.
    noise.seed=${seed} draws anew for each run seed."""
    rate: float = 0.1
    """Share of a changed response's words that typo touches, in (0, 1]."""
    path: Optional[str] = None
    """The noisy twin of dataset.path that from_file reads with the same dataset option: same rows, same order."""

    def __post_init__(self) -> None:
        require(0 <= self.ratio <= 1, "noise.ratio", "must be in [0, 1]", self.ratio, "0.3 changes 30 % of the rows")
        require(self.seed >= 0, "noise.seed", "must be at least 0", self.seed, "use 0, 1, 2")
        require(0 < self.rate <= 1, "noise.rate", "must be in (0, 1]", self.rate, "0.1 touches a tenth of the words")
        require(
            self.name != "none" or self.ratio == 0,
            "noise.ratio",
            "must be 0 without a kind of noise",
            self.ratio,
            "add noise=auto, or a kind such as noise=answer_swap",
        )
        if self.name == "from_file":
            require(bool(self.path), "noise.path", "must name the noisy file", self.path, "set noise.path=noisy.csv")
            require(
                self.ratio == 0,
                "noise.ratio",
                "must stay 0 with noise=from_file: the file decides which rows are noisy",
                self.ratio,
                "remove noise.ratio, or choose a kind that makes its own noise",
            )
        else:
            require(
                self.path is None,
                "noise.path",
                "is read by noise=from_file alone",
                self.path,
                "set noise=from_file, or remove noise.path",
            )

    @property
    def corrupts_responses(self) -> bool:
        """Whether any response can differ from the dataset's own."""
        return self.name == "from_file" or (self.name != "none" and self.ratio > 0)

    @property
    def label(self) -> str:
        """The noise in a run's name: `clean`, `noise=0.3`, `label_flip=0.3`, `from_file`."""
        if not self.corrupts_responses:
            return "clean"
        if self.name == "from_file":
            return self.name
        return f"{'noise' if self.name == 'auto' else self.name}={self.ratio:g}"
