"""Figures of the maps of an op, 800 pixels wide, each with a sentence on what it shows."""
import io
import textwrap
from typing import Dict, List, NamedTuple, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from mmvssd.analysis.op_maps import scaled
from mmvssd.analysis.result_files import MOST_BYTES, plain
from mmvssd.analysis.scan_maps import place_map, route_tokens

DPI = 100
WIDTH = 8.0  # inches: 800 pixels
FONT = 8
COLUMNS = 4  # panels side by side
LINE = 120  # characters of a line of a caption
TITLE_LINE = 100

SCOPE = ('The maps describe the op only. The convolution and SiLU before it, and the norm, gate '
         'and projection behind it, are not in them.')
ROUTES = ('Top: the order in which each route reads the tokens. Middle: its map in its own order, '
          'row t for the token that reads, column s for the token that is read. Nothing is read '
          'ahead: the plain triangle is 0. Bottom: the same with all tokens row by row. A column '
          'route looks like dense squares there: it has read all columns to the left, also below '
          'the token.')
COMBINED = ('What the marked tokens read of the image{routes}. The diagonal is what each token '
            'reads of itself.')
SCAN = ("What the first route's token (white box) reads as the scan goes on. Hatched tokens have "
        'not been scanned yet.')
DECAY = ("How much of a token is left when a later one reads it, in each route's own order. A "
         'bright triangle remembers the whole image, a thin line only the last tokens.')
WEIGHTS = ('How much each token puts into the one state that all tokens read. {unit} Each panel '
           'has its own scale, given in its title.')
OUTPUTS = "Length of each route's own output at each token, over its channels."
PEER = ('Attention of a transformer on the same image, mean over heads: what the marked tokens '
        'read, and what each token reads of itself.')

KIND_NAMES = {'attention': 'attention', 'decayed': 'attention with decay', 'decay': 'decay',
              'operator': 'operator'}


class Picture(NamedTuple):
    """A figure: its title, what it shows, and the PNG."""

    title: str
    caption: str
    png: bytes


def check_line(collected) -> str:
    """Say how well the maps describe the op."""
    return (f"Self-check: at {collected.checked} tokens the maps give the op's output, relative "
            f'error {collected.check:.0e}.')


def draw(collected, image: np.ndarray, settings, title: str) -> Dict[str, Picture]:
    """Draw all figures of an op's maps.

    Args:
        collected: A :class:`~mmvssd.analysis.activation_maps.Collected`.
        image: The photograph, (size, size, 3) uint8.
        settings: A :class:`~mmvssd.analysis.activation_maps.Settings`.
        title: Model and block.

    Returns:
        The figures by the names of their files.
    """
    arrays = collected.arrays
    figures = {}
    if 'routes' in arrays:
        figures['routes.png'] = _routes(collected, settings, title)
    caption = COMBINED.format(routes=', all routes together' if collected.orders else '')
    figures['combined.png'] = _combined(collected, image, settings, title, caption)
    if 'scan' in arrays:
        figures['scan.png'] = _scan(collected, settings, title)
    if 'decays' in arrays:
        figures['decay.png'] = _decay(collected, settings, title)
    if 'weights' in arrays:
        figures['weights.png'] = _weights(collected, image, title)
    if 'route_outputs' in arrays:
        figures['route_outputs.png'] = _outputs(collected, image, title)
    return figures


def draw_peer(collected, image: np.ndarray, settings, title: str) -> Picture:
    """Draw the attention of a transformer, as ``combined.png``."""
    return _combined(collected, image, settings, title, PEER)


def sheet(panels: int, columns: int = COLUMNS):
    """Make a figure with square panels, and list its axes in reading order."""
    columns = min(panels, columns)
    rows = -(-panels // columns)
    side = 0.86 * WIDTH / max(columns, 3)  # what a bar leaves
    figure = Figure(figsize=(WIDTH, rows * (side + 0.3) + 1), dpi=DPI, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[panels:]:
        unused.set_axis_off()
    return figure, axes[:panels]


def _finish(figure: Figure, title: str, caption: str, collected) -> Picture:
    return Picture(title, caption, finished(figure, title, f'{caption} {check_line(collected)}'))


def finished(figure: Figure, title: str, text: str) -> bytes:
    """Put a title above a figure and a text below; return a PNG below :data:`MOST_BYTES`."""
    title = plain(title)
    figure.suptitle('\n'.join(textwrap.wrap(title, TITLE_LINE)), fontsize=FONT + 2)
    figure.supxlabel('\n'.join(textwrap.wrap(text, LINE, break_on_hyphens=False)), fontsize=FONT)
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=DPI)
    return _small(content)


def _small(content: io.BytesIO) -> bytes:
    """Return a PNG with as many shades of each colour as :data:`MOST_BYTES` allow, or 8."""
    drawn = Image.open(content).convert('RGB')
    for bits in (7, 6, 5, 4, 3):
        if content.tell() <= MOST_BYTES:
            break
        content = io.BytesIO()
        ImageOps.posterize(drawn, bits).save(content, format='png', optimize=True)
    return content.getvalue()


def colour_bar(figure: Figure, drawn, axes, label: str) -> None:
    """Put a bar of colours beside one or more panels."""
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05, aspect=25)
    bar.ax.tick_params(labelsize=FONT - 1)
    bar.set_label(label, fontsize=FONT)


def _bar_label(settings) -> str:
    return {'minmax': 'min to max of a panel', 'absmax': 'magnitude, over the largest',
            'none': 'value'}[settings.scale]


def _matrix(axes, values: Tensor, title: str, limits: Sequence[float]):
    """Draw a map (L, L); row t reads column s."""
    drawn = axes.imshow(values.numpy(), cmap='viridis', vmin=limits[0], vmax=limits[1],
                        origin='upper', interpolation='antialiased')
    axes.set_title(title, fontsize=FONT)
    axes.tick_params(labelsize=FONT - 2)
    last = len(values) - 1
    axes.set_xticks([0, last])
    axes.set_yticks([0, last])
    return drawn


def _limits(values: Sequence[Tensor]) -> Sequence[float]:
    """Return colours of several panels that share a bar; the same for constant ones."""
    return min(v.min().item() for v in values), max(v.max().item() for v in values)


def _routes(collected, settings, title: str) -> Picture:
    count = len(collected.orders)
    figure, axes = sheet(3 * count, columns=count)
    own = [scaled(values, settings.scale) for values in collected.arrays['routes']]
    limits = _limits(own)
    for k, order in enumerate(collected.orders):
        _arrows(axes[k], order, f'route {k}: {_order_name(order)}')
        drawn = _matrix(axes[count + k], own[k], 'in its own order', limits)
        placed = place_map(own[k], route_tokens(collected.grid, order))
        _matrix(axes[2 * count + k], placed, 'tokens row by row', limits)
    for row in (1, 2):
        axes[row * count].set_ylabel('token t, which reads', fontsize=FONT)
        colour_bar(figure, drawn, axes[row * count:(row + 1) * count], _bar_label(settings))
    for axis in axes[2 * count:]:
        axis.set_xlabel('token s, read', fontsize=FONT)
    return _finish(figure, f'{title}: {KIND_NAMES[settings.kind]} of each route', ROUTES, collected)


def _order_name(order) -> str:
    return ('columns' if order.transposed else 'rows') + (', backwards' if order.reverse else '')


def _arrows(axes, order, title: str, side: int = 4) -> None:
    """Draw an order on a small grid: arrows along it, a dot at its start."""
    tokens = route_tokens((side, side), order)
    x, y = (tokens % side).numpy(), (tokens // side).numpy()
    for start, (dx, dy) in zip(zip(x, y), zip(np.diff(x), np.diff(y))):
        line = abs(dx) + abs(dy) == 1
        axes.annotate('', xy=(start[0] + dx, start[1] + dy), xytext=start,
                      arrowprops=dict(arrowstyle='->', color='tab:blue' if line else '0.7',
                                      lw=1.2 if line else 0.6, shrinkA=1, shrinkB=1))
    axes.plot(x[0], y[0], 'o', color='tab:red', markersize=5)
    axes.set(xlim=(-0.6, side - 0.4), ylim=(side - 0.4, -0.6), aspect='equal',
             xticks=np.arange(side + 1) - 0.5, yticks=np.arange(side + 1) - 0.5,
             xticklabels=[], yticklabels=[])
    axes.tick_params(length=0)
    axes.grid(color='0.85', linewidth=0.6)
    axes.set_title(title, fontsize=FONT)


def show(axes, image: np.ndarray, title: str) -> None:
    """Draw a photograph (H, W, 3) without axes."""
    axes.imshow(image)
    axes.set_axis_off()
    axes.set_title(title, fontsize=FONT)


def overlay(axes, image: np.ndarray, values: Tensor, grid, title: str, settings=None):
    """Lay a map over the photograph, half and half; values (L,). Return what a bar is made of."""
    size = image.shape[:2]
    heat = F.interpolate(values.view(1, 1, *grid), size, mode='bilinear', align_corners=False)
    show(axes, image, title)
    low, high = (0, 1) if settings is None or settings.scale != 'none' else _limits([values])
    return axes.imshow(heat[0, 0].numpy(), cmap='jet', alpha=0.5, vmin=low, vmax=high)


def _box(axes, token: int, grid, shape, color='white') -> None:
    """Frame a token's cell on a picture of ``shape`` (height, width)."""
    height, width = shape[0] / grid[0], shape[1] / grid[1]
    y, x = divmod(token, grid[1])
    axes.add_patch(Rectangle((x * width - 0.5, y * height - 0.5), width, height, fill=False,
                             edgecolor=color, linewidth=1.5))


def _combined(collected, image: np.ndarray, settings, title: str, caption: str) -> Picture:
    arrays, grid = collected.arrays, collected.grid
    overlays = {}
    if settings.kind != 'decay':  # nothing of a token has decayed yet when it reads itself
        overlays['diagonal: read of itself'] = (arrays['diagonal'], None)
    for (x, y), token, row in zip(settings.queries, collected.tokens, arrays['rows']):
        overlays[f'read from {x:g}, {y:g}'] = (row, token)
    panels = 1 + ('full' in arrays) + len(overlays)
    in_a_line = panels == 4 and settings.scale != 'none'  # else each has a bar of its own
    figure, axes = sheet(panels, columns=4 if in_a_line else 3)
    show(axes[0], image, f'{grid[1]} x {grid[0]} tokens')
    for token in collected.tokens:
        _box(axes[0], token, grid, image.shape)
    rest = axes[1:]
    if 'full' in arrays:
        values = scaled(arrays['full'], settings.scale)
        drawn = _matrix(rest[0], values, 'map: row t reads column s', _limits([values]))
        if settings.scale == 'none':
            colour_bar(figure, drawn, rest[0], 'value')
        rest = rest[1:]
    for axis, (name, (values, token)) in zip(rest, overlays.items()):
        drawn = overlay(axis, image, scaled(values, settings.scale), grid, name, settings)
        if token is not None:
            _box(axis, token, grid, image.shape)
        if settings.scale == 'none':
            colour_bar(figure, drawn, axis, 'value')
    if settings.scale != 'none':
        colour_bar(figure, drawn, axes, _bar_label(settings))
    return _finish(figure, f'{title}: {KIND_NAMES[settings.kind]}', caption, collected)


def _scan(collected, settings, title: str) -> Picture:
    rows, (H, W) = collected.arrays['scan'], collected.grid
    kind = 'operator' if settings.kind == 'attention' else settings.kind
    figure, axes = sheet(len(rows))
    for axis, row, position in zip(axes, rows, collected.positions):
        shown = scaled(row[:position + 1], settings.scale)
        values = np.ma.masked_array(np.zeros(H * W), mask=True)
        values[:position + 1] = shown.numpy()
        axis.set_facecolor('0.85')
        axis.patch.set(hatch='////', edgecolor='0.6')
        limits = _limits([shown]) if settings.scale == 'none' else (0, 1)
        drawn = axis.imshow(values.reshape(H, W), cmap='viridis', vmin=limits[0], vmax=limits[1])
        _box(axis, position, (H, W), (H, W))
        axis.set(xticks=[], yticks=[])
        axis.set_title(f'token {position + 1} of {H * W}', fontsize=FONT)
        if settings.scale == 'none':
            colour_bar(figure, drawn, axis, 'value')
    if settings.scale != 'none':
        colour_bar(figure, drawn, axes, _bar_label(settings))
    return _finish(figure, f'{title}: {KIND_NAMES[kind]} during the scan', SCAN, collected)


def _decay(collected, settings, title: str) -> Picture:
    decays = [scaled(values, settings.scale) for values in collected.arrays['decays']]
    figure, axes = sheet(len(decays))
    limits = _limits(decays)
    for k, (axis, order) in enumerate(zip(axes, collected.orders)):
        drawn = _matrix(axis, decays[k], f'route {k}: {_order_name(order)}', limits)
        axis.set_xlabel('token s, read', fontsize=FONT)
    axes[0].set_ylabel('token t, which reads', fontsize=FONT)
    colour_bar(figure, drawn, axes, _bar_label(settings))
    return _finish(figure, f'{title}: decay of each route', DECAY, collected)


def _weights(collected, image: np.ndarray, title: str) -> Picture:
    weights, grid = collected.arrays['weights'], collected.grid
    panels = {'mean': weights.mean(1),
              **{f'head {j}': head for j, head in enumerate(weights.T)}}
    figure, axes = sheet(1 + len(panels))
    show(axes[0], image, 'image')
    for axis, (name, values) in zip(axes[1:], panels.items()):
        drawn = axis.imshow(scaled(values, 'minmax').view(grid).numpy(), cmap='viridis', vmin=0,
                            vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f'{name}: {values.min():.3g} to {values.max():.3g}', fontsize=FONT)
    colour_bar(figure, drawn, axes, 'min to max of a panel')
    normalized = torch.allclose(weights.mean(0), torch.ones(weights.shape[1]), atol=1e-3)
    unit = '1 is the mean over tokens.' if normalized else 'It is the step size times the decay.'
    return _finish(figure, f'{title}: token weights of NC-SSD', WEIGHTS.format(unit=unit),
                   collected)


def _outputs(collected, image: np.ndarray, title: str) -> Picture:
    outputs: List[Tensor] = list(collected.arrays['route_outputs'])
    figure, axes = sheet(len(outputs))
    for k, (axis, order) in enumerate(zip(axes, collected.orders)):
        drawn = overlay(axis, image, scaled(outputs[k], 'minmax'), collected.grid,
                         f'route {k}: {_order_name(order)}')
    colour_bar(figure, drawn, axes, 'min to max of a panel')
    return _finish(figure, f'{title}: output of each route', OUTPUTS, collected)
