"""What a sweep found: tables, plots and one page, from the folder that it left.

from tokensieve.report import load_sweep, summarise_sweep, write_report
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.errors import CacheError
from tokensieve.report.frame import load_sweep, summarise_sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tokensieve.report.arms import Arm
    from tokensieve.report.forgetting import ForgettingStudy
    from tokensieve.report.load import Sweep
    from tokensieve.report.search import Search

__all__ = ["ReportPaths", "load_sweep", "summarise_sweep", "write_report"]


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """What `write_report` wrote. The figures are None when no run finished, `trials` where there was no search,
    `predictors` for fewer than five masks. `note`: the whole in a few lines of Markdown."""

    page: Path
    csv: Path
    markdown: Path
    figure: Path | None
    figure_svg: Path | None
    trials: Path | None = None
    predictors: Path | None = None
    note: str = ""

    def existing(self) -> list[Path]:
        """All of them: what the sweep's parent run keeps as artefacts."""
        paths = (self.page, self.csv, self.markdown, self.figure, self.figure_svg, self.trials, self.predictors)
        return [path for path in paths if path is not None]


def write_report(path: Path | str, *, console: Console | None = None) -> ReportPaths:
    """Print the table of a sweep, or of a single run, and write `report/` into its folder.

    Files: report.html (self-contained), table.csv, table.md, dose_response.png and .svg; of a search, trials.csv;
    predictors.csv where there are masks enough to say what foretold forgetting. Runs without a result are listed with
    their error; with none finished, the page says so.

    Args:
        path: folder of a sweep or of a run.
        console: where to print; default: standard output, as plain lines when it is no terminal.

    Raises:
        DataError: `path` is neither a sweep nor a run.
        CacheError: the folder cannot be written.
    """
    from rich.console import Console

    from tokensieve.report.arms import build_arms
    from tokensieve.report.forgetting import study_forgetting
    from tokensieve.report.load import read_sweep
    from tokensieve.report.search import print_search, read_search
    from tokensieve.report.terminal import print_predictions, print_table

    sweep = read_sweep(Path(path))
    search = read_search(sweep)
    arms = build_arms(sweep)
    study = study_forgetting(sweep, arms)
    console = console or Console()
    try:  # the files first: a reader that closes the pipe (`| head`) must not cost them
        paths = _write_files(sweep, arms, search, study)
    finally:
        with contextlib.suppress(OSError, SystemExit):  # rich ends the process when the pipe is closed
            print_table(sweep, arms, console)
            if search is not None:
                print_search(search, console)
            print_predictions(study, console)
    with contextlib.suppress(OSError, SystemExit):
        console.print(f"report: {paths.page}", soft_wrap=True, highlight=False, markup=False, emoji=False)
    return paths


def _write_files(sweep: Sweep, arms: Sequence[Arm], search: Search | None, study: ForgettingStudy) -> ReportPaths:
    import pandas as pd

    from tokensieve.report.figure import save_figure
    from tokensieve.report.forgetting import predictor_markdown, tabulate_predictors
    from tokensieve.report.frame import arm_row
    from tokensieve.report.note import write_note
    from tokensieve.report.page import render_page
    from tokensieve.report.plots import draw_dose_response
    from tokensieve.report.search import search_markdown, trial_table
    from tokensieve.report.table import markdown

    folder = sweep.folder / "report"
    has_arms = bool(arms)
    paths = ReportPaths(
        folder / "report.html",
        folder / "table.csv",
        folder / "table.md",
        folder / "dose_response.png" if has_arms else None,
        folder / "dose_response.svg" if has_arms else None,
        folder / "trials.csv" if search is not None else None,
        folder / "predictors.csv" if study.predictions else None,
        write_note(sweep, arms),
    )
    try:
        folder.mkdir(exist_ok=True)
        pd.DataFrame([arm_row(arm) for arm in arms]).to_csv(paths.csv, index=False)
        of_search = search_markdown(search) if search is not None else ""
        paths.markdown.write_text(markdown(sweep, arms) + of_search + predictor_markdown(study), encoding="utf-8")
        if search is not None and paths.trials is not None:
            header, rows = trial_table(search, search.trials)
            pd.DataFrame(rows, columns=header).to_csv(paths.trials, index=False)
        if paths.predictors is not None:
            tabulate_predictors(study).to_csv(paths.predictors, index=False)
        paths.page.write_text(render_page(sweep, arms, study), encoding="utf-8")
        if paths.figure is not None and paths.figure_svg is not None:
            figure = draw_dose_response(arms)
            save_figure(figure, paths.figure)
            save_figure(figure, paths.figure_svg)
    except OSError as error:
        remedy = "free disk space or correct the permissions"
        raise CacheError(str(folder), "must be writable", received=error.strerror, remedy=remedy) from error
    return paths
