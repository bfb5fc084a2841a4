"""An empty figure in the report's style, and its way into a page or a file. No pyplot: nothing global."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 5.0, 3.4  # inches; 360 pt wide, so that 10 pt text is 10 px on a phone
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "tokensieve",
}


def to_svg(figure: Figure, description: str, name: str) -> str:
    """Inline SVG, scaling with the page, with `description` for readers who hear it; equal input gives equal text.

    `name` keeps the ids of the figures of one page apart.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(
        r'<svg[^>]*?viewBox="([^"]+)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    )


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG at 160 dots an inch, or an SVG, by the ending of `path`."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE | {"svg.fonttype": "path"}):
        metadata: dict[str, Any] = {"Software": None} if path.suffix == ".png" else {"Date": None}
        figure.savefig(path, dpi=160, metadata=metadata)
    figure.set_layout_engine("none")  # laid out; a second file need not do it again
    return path


def new_figure(width: float, height: float, num_axes: int) -> Figure:
    """`num_axes` plots in a row, on a sheet of `width` x `height` inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.subplots(1, num_axes)
    return figure
