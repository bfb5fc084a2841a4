"""The sweep's own run in the tracking store, opened before any job so that jobs only ever open an existing store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokensieve.config import RunConfig


@dataclass(slots=True)
class ParentRun:
    """`run_id` None: tracking is off, or does not work; jobs then run without a parent."""

    uri: str | None
    experiment: str
    run_id: str | None
    answers: bool = True  # until it once did not: a store that is down would hold every job's end for a minute

    @classmethod
    def open(cls, config: RunConfig, name: str, earlier_id: str | None) -> ParentRun:
        """Open, or on resume reopen, the parent run that the config's tracking group asks for."""
        from tokensieve.pipeline import tracking_uri
        from tokensieve.tracking import open_sweep

        uri, experiment = tracking_uri(config), config.tracking.experiment
        run_id = open_sweep(uri, name, experiment=experiment, parent_run_id=earlier_id) if uri is not None else None
        return cls(uri, experiment, run_id)

    def end_child(self, folder: Path, status: str) -> None:
        """Set the status of a job's run, which a killed job could not do."""
        if self.uri is not None and self.answers:
            from tokensieve.tracking import end_run

            self.answers = end_run(self.uri, folder, status, experiment=self.experiment)

    def close(self, folder: Path, status: str, *, with_report: bool) -> None:
        """Write the report, if wanted, and end the parent run with the report among its artefacts."""
        artefacts, note = [folder / "sweep.json", *folder.glob("search.json")], None
        try:
            if with_report:
                from tokensieve.report import write_report

                paths = write_report(folder)
                artefacts += paths.existing()
                note = paths.note
        finally:
            if self.uri is not None:
                from tokensieve.tracking import close_sweep

                close_sweep(
                    self.uri,
                    self.run_id,
                    status,
                    artefacts=artefacts,
                    note=note,
                    experiment=self.experiment,
                    folder=folder,
                )
                self._tell_what_is_missing(folder, self.uri)

    def _tell_what_is_missing(self, folder: Path, uri: str) -> None:
        from tokensieve.sweep.terminal import say
        from tokensieve.tracking import count_incomplete

        if number := count_incomplete(folder, uri, self.experiment):
            say(f"{number} runs are not wholly in MLflow at {uri}; their local records are. To send them:")
            say(f"    tokensieve sync {folder}")
