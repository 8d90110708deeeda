# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of numbers and of features: PCA maps of patch features, loss curves, bars. matplotlib comes on use."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import SailvitError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common colour-blindness; grey is for what is only a reference.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
GREY = "#8a8f98"


@dataclass(frozen=True)
class PCAColours:
    """Three principal directions (h, 3) of one model's patch features and the range that each maps to 0..1.

    `explained` is the share of the variance that the three hold together.
    """

    mean: torch.Tensor
    directions: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    explained: float

    def __call__(self, features: torch.Tensor) -> np.ndarray:
        """Colours (n, rows, columns, 3) uint8 of patch features (n, rows, columns, h), a component each for red, green
        and blue."""
        scaled = ((features - self.mean) @ self.directions - self.low) / (self.high - self.low).clamp_min(1e-12)
        return (scaled.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def fit_pca_colours(features: torch.Tensor, brightness: torch.Tensor) -> PCAColours:
    """Fit the colours of one model on patches of many pictures; every model gets its own basis by the same protocol.

    Args:
        features: (n, rows, columns, h) float.
        brightness: mean brightness (n, rows, columns) of the same patches. A principal direction has no sign of its
            own; it is turned so that it rises with the brightness, which means the same in every model.

    The range of each component is cut at its 2nd and 98th percentile.
    """
    flat = features.flatten(0, 2).double()
    mean = flat.mean(dim=0)
    centred = flat - mean
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    basis = directions[:3].T
    projected = centred @ basis
    light = brightness.flatten().double()
    covariance = ((light - light.mean())[:, None] * projected).mean(dim=0)
    signs = torch.where(covariance < 0, -1.0, 1.0).double()
    basis, projected = basis * signs, projected * signs
    low, high = torch.quantile(projected, torch.tensor([0.02, 0.98], dtype=torch.float64), dim=0)
    explained = (values[:3].square().sum() / values.square().sum().clamp_min(1e-12)).item()
    return PCAColours(mean.float(), basis.float(), low.float(), high.float(), explained)


def patch_brightness(pictures: np.ndarray, rows: int, columns: int) -> torch.Tensor:
    """Mean brightness (n, rows, columns) of the patches of pictures (n, H, W, 3) uint8."""
    light = torch.from_numpy(pictures).float().mean(dim=-1)
    return torch.nn.functional.adaptive_avg_pool2d(light[:, None], (rows, columns))[:, 0]


def png_bytes(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _new_figure(
    width: float, height: float, panels: int, dark: bool, paper: str | None
) -> tuple["Figure", list[Any], str]:
    """A figure with a row of panels, and the colour of its text; no display, no global state of matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SailvitError("The figures need matplotlib: pip install 'sailvit_hf[eval]'.") from error
    ink = "#d5d8de" if dark else "#2b2f36"
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_facecolor(paper or "none")
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    for axis in axes:
        axis.set_facecolor("none")
        axis.tick_params(colors=ink, labelsize=8, length=3)
        axis.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
        axis.set_axisbelow(True)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(ink)
            spine.set_alpha(0.4)
    return figure, axes, ink


def _save(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    # Without the Software entry the bytes do not change with matplotlib's version number.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Running mean over the last `window` values (fewer at the start)."""
    sums = np.cumsum([0.0, *values])
    return [float(sums[i] - sums[max(0, i - window)]) / min(i, window) for i in range(1, len(sums))]


def loss_curves(
    histories: Mapping[str, Sequence[tuple[int, float]]], dark: bool = False, paper: str | None = None
) -> bytes:
    """Training loss of each stage, one panel per stage on a common scale, raw and smoothed; PNG.

    Args:
        histories: (step, loss) pairs by stage title, in order.
        dark: light ink for a dark page.
        paper: background; transparent when not given.

    Raises:
        SailvitError: if matplotlib is not installed.
    """
    panels = max(len(histories), 1)
    figure, axes, ink = _new_figure(2.6 * panels + 0.6, 2.7, panels, dark, paper)
    losses = [loss for history in histories.values() for _, loss in history]
    top = max(losses, default=1.0) * 1.03
    for i, (axis, (title, history)) in enumerate(zip(axes, histories.items(), strict=False)):
        color = PALETTE[i % len(PALETTE)]
        steps, values = [step for step, _ in history], [loss for _, loss in history]
        axis.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
        axis.plot(steps, smoothed(values, max(1, len(values) // 20)), color=color, linewidth=1.8)
        axis.set_title(title, color=ink, fontsize=9, loc="left")
        axis.set_xlabel("step", color=ink, fontsize=8)
        axis.set_ylim(0, top)
        if i == 0:
            axis.set_ylabel("training loss (nats per token)", color=ink, fontsize=8)
        else:
            axis.set_yticklabels([])
    return _save(figure)


def grouped_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    ylabel: str,
    references: Sequence[float | None] | None = None,
    reference_label: str = "chance",
    errors: Mapping[str, Sequence[float | None]] | None = None,
    percent: bool = False,
    dark: bool = False,
    paper: str | None = None,
) -> bytes:
    """Bars by group, one colour per series, the value written over each bar; PNG.

    Args:
        groups: labels below the groups of bars.
        series: one value per group by series; None leaves the place empty.
        references: a level per group, drawn as a dashed line across it (chance).
        errors: half lengths of error bars, same layout as `series`.
        percent: values are shares, written in per cent.
        dark, paper: as in `loss_curves`.
    """
    figure, axes, ink = _new_figure(max(4.2, 1.0 + 0.42 * len(groups) * (len(series) + 0.8)), 2.9, 1, dark, paper)
    axis = axes[0]
    scale, width = (100.0 if percent else 1.0), 0.84 / max(len(series), 1)
    for i, (name, values) in enumerate(series.items()):
        color = GREY if i == 0 and len(series) > 1 else PALETTE[(i - (len(series) > 1)) % len(PALETTE)]
        for j, value in enumerate(values):
            if value is None:
                continue
            x, error = j - 0.42 + (i + 0.5) * width, (errors or {}).get(name, [None] * len(groups))[j]
            axis.bar(x, value * scale, width * 0.92, color=color, label=name if not axis.patches else None)
            if error:
                axis.errorbar(x, value * scale, error * scale, color=ink, linewidth=1, capsize=2)
            text = f"{value * scale:.0f}" if percent else f"{value:.2f}"
            axis.annotate(text, (x, (value + (error or 0)) * scale), (0, 2), textcoords="offset points", ha="center",
                          fontsize=7, color=ink)  # fmt: skip
    for j, level in enumerate(references or []):
        if level is not None:
            axis.hlines(level * scale, j - 0.46, j + 0.46, color=ink, linestyle=(0, (3, 2)), linewidth=1)
    _legend(axis, list(series), reference_label if any(r is not None for r in references or []) else None, ink)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_xlim(-0.6, len(groups) - 0.4)
    axis.margins(y=0.1)  # room for the numbers over the bars
    axis.set_ylabel(ylabel + (" (%)" if percent else ""), color=ink, fontsize=8)
    return _save(figure)


def _legend(axis: Any, names: Sequence[str], reference: str | None, ink: str) -> None:
    """A legend above the axes, one entry per series, and the dashed line's."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colors = [GREY, *PALETTE] if len(names) > 1 else list(PALETTE)
    handles: list[Any] = [Patch(color=colors[i % len(colors)], label=name) for i, name in enumerate(names)]
    if reference:
        handles.append(Line2D([], [], color=ink, linestyle=(0, (3, 2)), linewidth=1, label=reference))
    axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5, frameon=False, fontsize=8,
                labelcolor=ink, handlelength=1.2, borderaxespad=0.2)  # fmt: skip
