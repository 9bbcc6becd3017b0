"""The picture at the top of the README: two windows of one photograph under five extractors.

Command: python docs/pictures/windows_on_a_photograph.py [FILE.png]

Each extractor is trained, for half a minute on a CPU core, to remove noise from the photograph: an output is the weighted sum of the
noisy pixels in a window. What is generated from the image, kernels and offsets, comes from the same small convolutional network.
The picture shows where the taps of two windows look after that, and their weights; it compares no accuracies.

The photograph (https://www.flickr.com/photos/vultilion/6056698931, CC BY 2.0) comes with scikit-learn.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from matplotlib.patheffects import withStroke
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import unified_extractor as ux

NOISE, STEPS, BATCH, CROP = 0.2, 400, 4, 40
PLACES = {"A": (48, 175), "B": (94, 158)}
"""Places of the two windows on the photograph at half its size, (row, column)."""
COLORS = {"A": "#ffd23f", "B": "#3fd0ff"}
LETTER = {"fontsize": 14, "fontweight": "bold", "path_effects": [withStroke(linewidth=2.5, foreground="black")]}
REACH = 4
"""Pixels around a window's place that a panel shows."""


class Extractor(nn.Module):
    """An extractor of 5x5 taps on the three color channels, whose kernels and offsets one small network generates.

    Args:
        static: whether there is a kernel that is a parameter, one for each channel.
        dynamic: values of the generated kernel at a position; 0: none.
        offsets: whether taps get offsets.
    """

    def __init__(self, static: bool, dynamic: int, offsets: bool) -> None:
        super().__init__()
        self.dynamic, self.fold = dynamic, dynamic == 81
        self.static_kernel = nn.Parameter(torch.full((3, 1, 5, 5), 1 / 25)) if static else None
        emitted = dynamic + 50 * offsets
        if emitted:
            layers = [nn.Conv2d(a, 24, 3, padding=1) for a in (3, 24, 24)]
            self.generator = nn.Sequential(*(part for layer in layers for part in (layer, nn.GELU())), nn.Conv2d(24, emitted, 1))
            last = self.generator[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def generate(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the dynamic kernel and the offsets for an image."""
        if not hasattr(self, "generator"):
            return None, None
        values = self.generator(x)
        kernel, offsets = values[:, None, : self.dynamic], values[:, None, self.dynamic :]
        if self.fold:
            kernel = kernel.unflatten(2, (9, 9)).softmax(3) / 9
        elif self.static_kernel is None:
            kernel = kernel + 1 / 25
        return kernel if self.dynamic else None, offsets.unflatten(2, (25, 2)) if offsets.shape[2] else None

    def aggregate(self, x: Tensor, kernel: Tensor | None, offsets: Tensor | None) -> Tensor:
        """Return the output for an image, a dynamic kernel and offsets."""
        size = 3 if self.fold else 5
        return ux.extract(
            x,
            kernel_size=size,
            padding=size // 2,
            static_kernel=self.static_kernel,
            dynamic_kernel=kernel,
            offsets=offsets,
            combine="residual" if self.static_kernel is not None and kernel is not None else "multiply",
            aggregation="fold" if self.fold else "gather",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the image without noise."""
        return self.aggregate(x, *self.generate(x))


@dataclass(frozen=True)
class Shown:
    """One column of the picture."""

    title: str
    extractor: Callable[[], Extractor]
    where: str
    weight: str
    shared: str


COLUMNS = [
    Shown("convolution", lambda: Extractor(True, 0, False), "on the grid", "learned, fixed", "all positions"),
    Shown("deformable convolution", lambda: Extractor(True, 0, True), "where the image says", "learned, fixed", "all positions"),
    Shown("involution", lambda: Extractor(False, 25, False), "on the grid", "generated from the image", "a group of channels"),
    Shown("outlook attention", lambda: Extractor(False, 81, False), "on the grid", "voted by the neighbors", "a head's channels"),
    Shown("unified", lambda: Extractor(True, 25, True), "where the image says", "fixed × generated", "both of these"),  # noqa: RUF001
]


def photograph() -> Tensor:
    """Return the photograph at half its size, ``[1, 3, 213, 320]`` in 0..1."""
    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None, :, :426].float() / 255
    return F.avg_pool2d(pixels, 2)


def trained(extractor: Extractor, photo: Tensor) -> Extractor:
    """Return the extractor after it has learned to remove noise from crops of the photograph."""
    optimizer = torch.optim.AdamW(extractor.parameters(), 5e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(0, photo.shape[2] - CROP, (BATCH,)).tolist()
        columns = torch.randint(60, 240 - CROP, (BATCH,)).tolist()
        clean = torch.cat([photo[..., y : y + CROP, x : x + CROP] for y, x in zip(rows, columns, strict=True)])
        loss = F.mse_loss(extractor(clean + NOISE * torch.randn_like(clean)), clean)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(extractor.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"mean squared error of the last batch {loss.item():.4f}", flush=True)
    return extractor


def window(extractor: Extractor, x: Tensor, place: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, columns and weights of the taps that make the green value of an output pixel."""
    with torch.no_grad():
        kernel, offsets = extractor.generate(x)
    row, column = place
    steps = torch.arange(-2.0, 3)
    rows, columns = (step.flatten() for step in torch.meshgrid(row + steps, column + steps, indexing="ij"))
    if offsets is None:  # the output is linear in the image, so its gradient is the weights; of a fold those of all its windows
        image = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(extractor.aggregate(image, kernel, None)[0, 1, row, column], image)
        return rows, columns, gradient[0, 1, row - 2 : row + 3, column - 2 : column + 3].flatten()
    weights = extractor.static_kernel.detach()[1, 0].flatten()
    if kernel is not None:
        weights = weights * (1 + kernel[0, 0, :, row, column])
    return rows + offsets[0, 0, :, 0, row, column], columns + offsets[0, 0, :, 1, row, column], weights


def draw(extractors: list[Extractor], photo: Tensor) -> Figure:
    """Return the picture: the photograph with two windows, and a panel for each extractor and window."""
    noisy = photo + NOISE * torch.randn_like(photo)
    figure = Figure(figsize=(13, 5.2))
    grid = figure.add_gridspec(2, 6, width_ratios=(1.75, 1, 1, 1, 1, 1), left=0.005, right=0.99, top=0.93, bottom=0.17)
    whole = figure.add_subplot(grid[:, 0])
    top, bottom, left, right = 16, 206, 79, 227
    whole.imshow(photo[0].permute(1, 2, 0), interpolation="bicubic")
    whole.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    for number, (column, extractor) in enumerate(zip(COLUMNS, extractors, strict=True), 1):
        readings = {name: window(extractor, noisy, place) for name, place in PLACES.items()}
        limit = max(float(weights.abs().max()) for *_, weights in readings.values())
        for row, (name, place) in enumerate(PLACES.items()):
            axis = figure.add_subplot(grid[row, number])
            _draw_window(axis, photo, place, readings[name], COLORS[name], limit)
            if number == 1:
                _mark_place(whole, axis, name, place)
            axis.text(0.04, 0.95, name, transform=axis.transAxes, color=COLORS[name], va="top", **LETTER)
            if row == 0:
                axis.set_title(column.title, fontsize=12.5, fontweight="bold", pad=7)
        for line, (question, answer) in enumerate(_answers(column)):
            text = {"transform": axis.transAxes, "ha": "center", "va": "top", "fontsize": 10.5}
            axis.text(0.5, -0.06 - 0.135 * line, answer, **text)
            if number == 1:
                place_of_word = {**text, "ha": "right", "fontweight": "bold"}
                axis.text(-0.1, -0.06 - 0.135 * line, question, **place_of_word)
    return figure


def _answers(column: Shown) -> list[tuple[str, str]]:
    return [("where the taps look", column.where), ("with which weight", column.weight), ("who shares the weight", column.shared)]


def _mark_place(whole: Axes, axis: Axes, name: str, place: tuple[int, int]) -> None:
    """Frame a window's surroundings on the photograph, and join the frame to their panel."""
    corner, size = (place[1] - REACH - 0.5, place[0] - REACH - 0.5), 2 * REACH + 1
    whole.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=COLORS[name], linewidth=2))
    whole.text(corner[0] - 2, corner[1] + size / 2, name, color=COLORS[name], ha="right", va="center", **LETTER)
    for edge in (0, 1):
        point = (corner[0] + size, corner[1] + size * (1 - edge))
        line = ConnectionPatch(point, (0, edge), whole.transData, axis.transAxes, color=COLORS[name], linewidth=1.2)
        whole.figure.add_artist(line)


def _draw_window(
    axis: Axes, photo: Tensor, place: tuple[int, int], reading: tuple[Tensor, Tensor, Tensor], color: str, limit: float
) -> None:
    """Draw the taps on the photograph around a window's place: area and color are the weight."""
    rows, columns, weights = reading
    axis.imshow(photo[0].permute(1, 2, 0), interpolation="nearest", alpha=0.85)
    areas = 14 + 380 * weights.abs() / limit
    axis.scatter(
        columns, rows, s=areas, c=weights, cmap="RdBu_r", norm=Normalize(-limit, limit), edgecolors="black", linewidths=0.7
    )
    axis.plot(place[1], place[0], "+", color="black", markersize=7, markeredgewidth=1.2)
    axis.set(xlim=(place[1] - REACH - 0.5, place[1] + REACH + 0.5), ylim=(place[0] + REACH + 0.5, place[0] - REACH - 0.5))
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(color=color, linewidth=2.5)


def main(file: str = str(Path(__file__).with_suffix(".png"))) -> None:
    """Train the extractors and write the picture."""
    torch.set_num_threads(1)  # rounding, and so the picture, depends on their number
    photo, extractors = photograph(), []
    for column in COLUMNS:
        torch.manual_seed(0)
        extractors.append(trained(column.extractor(), photo))
    torch.manual_seed(0)
    draw(extractors, photo).savefig(file, dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
