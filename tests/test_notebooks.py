"""The notebooks run from top to bottom, say nothing on stderr, and lie in the repository without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import threshold_sweep

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path, folder: Path) -> list[Any]:
    """The executed code cells; an error in one is raised."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def complaints(cells: list[Any]) -> list[str]:
    """What the notebook wrote to stderr; a fresh machine's fonts are not its fault."""
    return [line for line in texts(cells, "stderr").splitlines() if "font cache" not in line]


def texts(cells: list[Any], kind: str) -> str:
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs if output.get("name") == kind)


def shown(cells: list[Any], kind: str) -> list[str]:
    return [
        output["data"][kind]
        for cell in cells
        for output in cell.outputs
        if output.output_type in ("display_data", "execute_result") and kind in output["data"]
    ]


@pytest.fixture(autouse=True)
def _kernel_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(key, str(tmp_path / key.lower()))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["look_at_tokens.ipynb", "read_a_sweep.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert set(notebook["metadata"]["language_info"]) == {"name"}


def test_read_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threshold_sweep(tmp_path / "outputs" / "sweeps" / "one", seeds=(1, 2))
    monkeypatch.setenv("TOKENSIEVE_OUTPUTS", str(tmp_path / "outputs"))
    cells = execute(FOLDER / "read_a_sweep.ipynb", tmp_path)
    assert complaints(cells) == []
    assert len(shown(cells, "image/png")) == 2
    tables = shown(cells, "text/html")
    assert any("adjusted_p_value" in table and "stm=2.5" in table for table in tables)


def test_look_at_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSIEVE_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("TOKENSIEVE_LIMIT", "12")
    cells = execute(FOLDER / "look_at_tokens.ipynb", tmp_path)
    assert complaints(cells) == []
    assert "12 examples" in texts(cells, "stdout")
    assert len(shown(cells, "image/png")) == 2
    tables = shown(cells, "text/html")
    assert any("line-through" in table for table in tables)
    assert any("keyword" in table and "end token" in table for table in tables)
