"""The maps of one block of a model on photographs: computed, checked, drawn, written.

The maps describe the op only. The convolution and SiLU before it, and the norm, gate and projection
behind it, are not in them.
"""
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from rich.progress import Progress, TaskID
from torch import Tensor, nn

from mmvssd.analysis import map_figures
from mmvssd.analysis.named_models import ModelName, NamedModel, build_named
from mmvssd.analysis.op_capture import (
    Call,
    check_mixer,
    recorded_maps,
    recording,
    recording_attention,
)
from mmvssd.analysis.op_maps import (
    KINDS,
    SCALES,
    OpMaps,
    part_of,
    scaled,
    self_check,
    silent,
    spread,
    token_at,
)
from mmvssd.analysis.photographs import check_size, each_picture, normalized
from mmvssd.analysis.scan_maps import RouteMaps, map_row, place_map
from mmvssd.analysis.ssd_maps import AttentionMaps
from mmvssd.engine.record.pictures import shortened
from mmvssd.errors import ConfigError, printable
from mmvssd.files import strict_json, write_whole, written_whole
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.phrases import counted

#: How the routes of a map become one: added up as they are, or scaled first and averaged.
COMBINATIONS = ('sum', 'mean')


class Settings(NamedTuple):
    """Which maps are drawn; the defaults are the published ones.

    Attributes:
        size: Side of the images in pixels.
        stage: Stage of the block, from 0.
        block: Block of the stage; negative ones count from the end.
        queries: Places (x, y) of tokens whose rows are drawn, 0 to 1 from the left and the top.
        kind: Kind of map, of :data:`~mmvssd.analysis.op_maps.KINDS`.
        combine: One of :data:`COMBINATIONS`.
        scale: One of :data:`~mmvssd.analysis.op_maps.SCALES`.
        scan_stages: Panels of the figure in which a scan goes on.
        max_tokens: Largest grid of which whole maps are computed.
        device: A device of PyTorch.
    """

    size: int = 512
    stage: int = 2
    block: int = 1
    queries: Tuple[Tuple[float, float], ...] = ((0.5, 0.5), )
    kind: str = 'attention'
    combine: str = 'sum'
    scale: str = 'minmax'
    scan_stages: int = 4
    max_tokens: int = 4096
    device: str = 'cpu'


def check_settings(settings: Settings) -> None:
    """Raise ConfigError, which names the option, if a setting does not fit."""
    check_size(settings.size)
    for x, y in settings.queries:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ConfigError(f'--query: got {x:g} {y:g}, expected X and Y from 0 to 1: shares of '
                              'the width from the left and of the height from the top')
    for option, value, known in (('--map', settings.kind, KINDS),
                                 ('--combine', settings.combine, COMBINATIONS),
                                 ('--scale', settings.scale, SCALES)):
        if value not in known:
            raise ConfigError(f'{option}: got {value!r}, expected one of {", ".join(known)}')
    for option, value in (('--stages-of-scan', settings.scan_stages),
                          ('--max-tokens', settings.max_tokens)):
        if value < 1:
            raise ConfigError(f'{option}: got {value}, expected a positive number')


class Site(NamedTuple):
    """Where an op is recorded: a model, and a context that records one forward pass of it.

    Attributes:
        named: The model.
        title: What figures call the place.
        mixer: The module whose op is recorded.
        record: Makes the context; it gives a function that makes the maps after the pass.
    """

    named: NamedModel
    title: str
    mixer: nn.Module
    record: Callable


def find_site(name: ModelName, settings: Settings, seed: int = 0) -> Site:
    """Build a model and find the block whose op is recorded.

    Raises:
        ConfigError: There is no such model, stage or block; the model has no backbone of ours; or
            the block's op has no map, or not the kind that was asked for.
        CheckpointError: The checkpoint cannot be read, or is another model's.
    """
    named = build_named(name, size=settings.size, seed=seed)
    if not isinstance(named.backbone, BaseBackbone):
        raise ConfigError(f'{name.name}: its backbone is a {type(named.backbone).__name__}, which '
                          'has no op of ours; give an arch such as vmamba-tiny-s2l5, or a recipe '
                          'with a VSSD or a VMamba; --peer takes deit-small')
    if named.backbone.in_channels != 3:
        raise ConfigError(f'{name.name}: its backbone takes '
                          f'{counted(named.backbone.in_channels, "channel")}; photographs have 3')
    mixer = _mixer(named.backbone, name.name, settings)
    check_mixer(mixer)
    _check_kind(mixer, settings)

    @contextmanager
    def record():
        with recording(mixer) as found:
            yield lambda: recorded_maps(mixer, found)

    depth = len(named.backbone.stages[settings.stage])
    return Site(named, f'{name.label}, stage {settings.stage}, block {settings.block % depth}',
                mixer, record)


def _mixer(backbone: BaseBackbone, name: str, settings: Settings) -> nn.Module:
    stages = backbone.stages
    if not 0 <= settings.stage < len(stages):
        raise ConfigError(f'--stage: got {settings.stage}, expected 0 to {len(stages) - 1}, the '
                          f'stages of {name}')
    depth = len(stages[settings.stage])
    if not -depth <= settings.block < depth:
        raise ConfigError(f'--block: got {settings.block}, expected {-depth} to {depth - 1}: stage '
                          f'{settings.stage} of {name} has {counted(depth, "block")}')
    return stages[settings.stage][settings.block].mixer


def _check_kind(mixer: nn.Module, settings: Settings) -> None:
    causal = type(mixer).__name__ in ('SS2D', 'SSDMixer')
    if not causal and settings.kind in ('decay', 'decayed'):
        raise ConfigError(f'--map: got {settings.kind!r}, and {type(mixer).__name__} has no order '
                          'and no decay; attention and operator fit. Causal mixers have a decay: '
                          "those of VMamba, and of a VSSD with mixers 'ssd' or 'bi_ssd'")


def find_peer(name: ModelName, layer: int, settings: Settings, seed: int = 0) -> Site:
    """Build a vision transformer of MMPreTrain and find the layer whose attention is recorded.

    Raises:
        ConfigError: There is no such model or layer, or it has no attention of that kind.
        CheckpointError: The checkpoint cannot be read, or is another model's.
    """
    named = build_named(name, size=settings.size, seed=seed)
    backbone = named.backbone
    layers = getattr(backbone, 'layers', [])
    # others, such as BEiT's, add a bias to the scores
    attentions = [entry.attn for entry in layers
                  if type(getattr(entry, 'attn', None)).__name__ == 'MultiheadAttention']
    if not attentions or len(attentions) != len(layers) or not hasattr(backbone, 'patch_embed'):
        raise ConfigError(f'--peer: {name.name} has no attention over all tokens in its layers; '
                          'deit-small has')
    if not -len(attentions) <= layer < len(attentions):
        raise ConfigError(f'--peer-layer: got {layer}, expected {-len(attentions)} to '
                          f'{len(attentions) - 1}, the layers of {name.name}')
    attention = attentions[layer]

    @contextmanager
    def record():
        calls: List[Call] = []
        grids = []
        hook = backbone.patch_embed.register_forward_hook(
            lambda _, inputs, output: grids.append(tuple(output[1])))
        try:
            with recording_attention(attention.qkv, attention.proj, calls):
                yield lambda: _peer_maps(attention, calls[0], grids[0])
        finally:
            hook.remove()

    return Site(named, f'{name.label}, layer {layer % len(attentions)}', attention, record)


def _peer_maps(attention: nn.Module, call: Call, grid: Tuple[int, int]) -> AttentionMaps:
    qkv = call.arguments['qkv']
    return AttentionMaps(grid, qkv, attention.num_heads, result=call.result,
                         extra=qkv.shape[1] - grid[0] * grid[1])


class Collected(NamedTuple):
    """What is drawn and kept of one op's call; tensors of maps are float32 on the CPU.

    Attributes:
        grid: (H, W).
        tokens: Row-major tokens of the queries.
        arrays: By name. ``rows`` (queries, L) and ``diagonal`` (L,) always; ``full`` (L, L) unless
            the grid is too large; ``weights`` (L, h) of NC-SSD. Ops with routes have ``scan``
            (panels, L) and ``route_outputs`` (routes, L) and, unless the grid is too large,
            ``routes`` and ``decays`` (routes, L, L), in each route's own order.
        positions: Positions of route 0 that the panels of ``scan`` show.
        orders: Of the routes; empty for ops without.
        check: Relative error of the self-check.
        checked: Tokens of the self-check.
    """

    grid: Tuple[int, int]
    tokens: Tuple[int, ...]
    arrays: Dict[str, Tensor]
    positions: Tuple[int, ...]
    orders: tuple
    check: float
    checked: int


def collect(maps: OpMaps, settings: Settings, tick: Callable[[float], None] = silent) -> Collected:
    """Compute all maps of an op's call, the self-check first.

    Raises:
        RuntimeError: The maps do not describe the op.
        NumericalFault: The op's outputs are not finite.
    """
    checked = spread(maps.length)
    error = self_check(maps, checked)
    tokens = tuple(token_at(x, y, maps.grid) for x, y in settings.queries)
    if isinstance(maps, RouteMaps):
        arrays, positions = _of_routes(maps, tokens, settings, tick)
        orders: Any = maps.orders
    else:
        arrays, positions = _of_matrix(maps, tokens, settings, tick)
        orders = ()
    if hasattr(maps, 'weights'):
        arrays['weights'] = maps.weights
    arrays = {name: values.float().cpu() for name, values in arrays.items()}
    return Collected(maps.grid, tokens, arrays, positions, orders, error,
                     len(checked))


def _of_matrix(maps: OpMaps, tokens: Sequence[int], settings: Settings, tick):
    arrays = {'rows': maps.rows(settings.kind, tokens), 'diagonal': maps.diagonal(settings.kind)}
    if maps.length <= settings.max_tokens:
        arrays['full'] = maps.full(settings.kind, tick)
    tick(1)
    return arrays, ()


def _of_routes(maps: RouteMaps, tokens: Sequence[int], settings: Settings, tick):
    kind, length, count = settings.kind, maps.length, len(maps.orders)
    arrays = {'rows': _combined(maps, maps.route_rows(kind, tokens), settings),
              'diagonal': _combined(maps, maps.route_diagonals(kind), settings)}
    first = maps.route(0)
    panels = min(settings.scan_stages, length)
    positions = tuple(-(-i * length // panels) - 1 for i in range(1, panels + 1))
    kernel = first.kernel('operator' if kind == 'attention' else kind)
    arrays['scan'] = torch.stack([first.place(map_row(kernel, t)) for t in positions])
    arrays['route_outputs'] = torch.stack([y.norm(dim=1) for y in maps.route_outputs()])
    if length <= settings.max_tokens:
        own, full = [], None
        for k in range(count):
            values = maps.route_map(kind, k, part_of(tick, k, 2 * count))
            own.append(values.float().cpu())
            placed = _combined(maps, [place_map(values, maps.route(k).tokens)], settings, count)
            full = placed if full is None else full.add_(placed)
        arrays['full'] = full
        arrays['routes'] = torch.stack(own)
        decays = own if kind == 'decay' else [
            maps.route_map('decay', k, part_of(tick, count + k, 2 * count)
                           ).float().cpu() for k in range(count)]
        arrays['decays'] = torch.stack(decays)
    tick(1)
    return arrays, positions


def _combined(maps: RouteMaps, values: Sequence[Tensor], settings: Settings,
              count: Optional[int] = None) -> Tensor:
    """Bring arrays of ``count`` routes together; the default is as many as there are."""
    if settings.combine == 'sum':
        return maps.share * sum(values)
    return sum(scaled(each, settings.scale) for each in values) / (count or len(values))


class Explored(NamedTuple):
    """A photograph that is done: its folder, its maps, and whether it had to be enlarged."""

    folder: Path
    maps: Collected
    enlarged: bool


def constant(collected: Collected) -> List[str]:
    """List the arrays whose values are all equal; pictures show them as 0."""
    return [name for name, values in collected.arrays.items() if values.min() == values.max()]


def facts_of(collected: Collected) -> dict:
    """Return what maps.json says of an op's maps."""
    ranges = {}
    for name, values in collected.arrays.items():
        ranges[name] = dict(min=values.min().item(), max=values.max().item(),
                            negative_share=(values < 0).double().mean().item())
    return dict(grid=collected.grid, tokens=collected.tokens, ranges=ranges,
                channels='mean over channels or heads', scan_positions=collected.positions,
                full_maps='full' in collected.arrays,
                self_check=dict(relative_error=collected.check, tokens=collected.checked))


def observe(site: Site, image: Tensor, settings: Settings) -> OpMaps:
    """Run an image (1, 3, H, W) through a model and return the maps of the op there."""
    backbone = site.named.backbone.to(settings.device)
    with torch.no_grad(), site.record() as maps:
        backbone(image.to(settings.device))
    return maps()


def _advance(progress: Progress, bar: TaskID, before: int, done: float) -> None:
    progress.update(bar, completed=before + done)


def explore(site: Site, files: Sequence[Path], settings: Settings, folder: Path, *,
            protocol: dict, failures: Dict[Path, str],
            peer: Optional[Site] = None) -> Iterator[Explored]:
    """Draw and write the maps on each photograph, in a folder of its own.

    Args:
        site: Where the op is recorded.
        files: The photographs.
        settings: Which maps.
        folder: Gets a folder for each photograph, named like it.
        protocol: What maps.json says of model and machine.
        failures: Gets an entry for each photograph that cannot be read.
        peer: A transformer to draw beside.

    Yields:
        Each photograph, once its folder is complete.

    Raises:
        ConfigError: The folder cannot be written to.
    """
    names = folder_names(files)
    for file, picture in each_picture(files, settings.size, 'crop', failures):
        sites = {'maps': site, **({'peer': peer} if peer else {})}
        found = {}
        with Progress(transient=True) as progress:
            bar = progress.add_task(file.name, total=len(sites))
            for i, (name, place) in enumerate(sites.items()):
                maps = observe(place, normalized(picture.image, place.named.normalization),
                               settings)
                wanted = (settings if name == 'maps' or settings.kind in maps.kinds
                          else settings._replace(kind='attention'))
                found[name] = collect(maps, wanted, partial(_advance, progress, bar, i))
        target = folder / names[file]
        facts = dict(protocol, image=str(file), enlarged=picture.enlarged, map=settings.kind,
                     **settings._asdict(), **facts_of(found['maps']))
        del facts['kind']  # as the option is called
        if peer:
            facts['peer'] = dict(title=peer.title, **facts_of(found['peer']))
        try:
            _write(target, found, {name: place.title for name, place in sites.items()},
                   picture.image, settings, facts)
        except OSError as error:
            raise ConfigError(f'--out: {target} cannot be written to ({error.strerror or error})'
                              ) from error
        yield Explored(target, found['maps'], picture.enlarged)


def folder_names(files: Sequence[Path]) -> Dict[Path, str]:
    """Name a folder for each photograph: its stem, short enough, numbered if it comes twice."""
    names, taken = {}, set()
    for file in files:
        stem = shortened(file.stem)
        name, number = stem, 2
        while name in taken:
            name, number = f'{stem}-{number}', number + 1
        taken.add(name)
        names[file] = name
    return names


def _write(folder: Path, found: Dict[str, Collected], titles: Dict[str, str], image: np.ndarray,
           settings: Settings, facts: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figures = map_figures.draw(found['maps'], image, settings, titles['maps'])
    if 'peer' in found:
        figures['peer.png'] = map_figures.draw_peer(found['peer'], image, settings, titles['peer'])
    for name, figure in figures.items():
        write_whole(folder / name, figure.png)
    arrays = {name: values.numpy() for name, values in found['maps'].arrays.items()}
    if 'peer' in found:
        arrays.update({f'peer_{name}': values.numpy()
                       for name, values in found['peer'].arrays.items()})
    with written_whole(folder / 'maps.npz') as partial, open(partial, 'wb') as file:
        np.savez_compressed(file, **arrays)
    write_whole(folder / 'maps.md', _page(titles['maps'], found['maps'], figures, facts))
    # last: a folder with it is complete
    write_whole(folder / 'maps.json', strict_json(facts, indent=2))


def _page(title: str, collected: Collected, figures: dict, facts: dict) -> str:
    image = printable(Path(facts['image']).name, kept='')  # its bytes may be no UTF-8
    lines = [f'# {title}: {image}', '',
             f'{map_figures.SCOPE} {map_figures.check_line(collected)}', '']
    if not facts['full_maps']:
        lines += [f'Whole maps are left out: the grid has {len(collected.arrays["diagonal"])} '
                  f'tokens, and --max-tokens is {facts["max_tokens"]}.', '']
    for name, figure in figures.items():
        lines += [f'## {figure.title}', '', f'![{figure.title}]({name})', '', figure.caption, '']
    return '\n'.join(lines)
