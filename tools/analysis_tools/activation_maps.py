#!/usr/bin/env python
"""Draw what each token of a block reads of each token (VMamba's Figs. 4 to 7, and VSSD's own).

MODEL is NAME, NAME@CHECKPOINT or NAME@CHECKPOINT=LABEL. NAME is an arch such as vmamba-tiny-s2l5,
or a recipe with a backbone of ours. Without a checkpoint the weights are random.
"""
import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmvssd.analysis.activation_maps import (
    COMBINATIONS,
    Settings,
    check_settings,
    constant,
    explore,
    find_peer,
    find_site,
)
from mmvssd.analysis.named_models import ModelName, check_models
from mmvssd.analysis.op_maps import KINDS, SCALES
from mmvssd.analysis.photographs import choose_photographs, report_failures
from mmvssd.analysis.speed_report import machine
from mmvssd.cli.command_line import add_photograph_arguments, named, run
from mmvssd.cli.launch import check_device, check_seed, check_writable
from mmvssd.phrases import numbered
from mmvssd.version import __version__


def main() -> None:
    args = _arguments()
    settings = Settings(args.size, args.stage, args.block, tuple(map(tuple, args.query)), args.map,
                        args.combine, args.scale, args.stages_of_scan, args.max_tokens,
                        args.device)
    check_settings(settings)
    check_device(args.device)
    check_seed(args.seed)
    model, *peers = [ModelName.parse(text) for text in (args.model, *filter(None, [args.peer]))]
    check_models([model, *peers], args.size)
    files = choose_photographs(args.images, args.num_images, args.seed)
    site = find_site(model, settings, args.seed)
    peer = find_peer(peers[0], args.peer_layer, settings, args.seed) if peers else None
    check_writable(args.out, '--out')
    protocol = dict(model=model.name, checkpoint=model.checkpoint, label=model.label,
                    seed=args.seed, pattern=getattr(site.mixer, 'pattern', None),
                    mixer=type(site.mixer).__name__, mmvssd=__version__, torch=torch.__version__,
                    machine=machine(args.device))
    table = Table('image', 'tokens', 'self-check', 'folder', title=f'{escape(site.title)}: '
                  f'{machine(args.device)}')
    failures, constants, enlarged = {}, set(), 0
    for done in explore(site, files, settings, Path(args.out), protocol=protocol,
                        failures=failures, peer=peer):
        height, width = done.maps.grid
        table.add_row(escape(done.folder.name), f'{width} x {height}', f'{done.maps.check:.0e}',
                      escape(str(done.folder)))
        constants.update(constant(done.maps))
        enlarged += done.enlarged
    if table.row_count:
        Console().print(table)
        if width * height > args.max_tokens:
            print(f'Without whole maps: {width * height} tokens are more than --max-tokens '
                  f'{args.max_tokens}.')
    if constants:
        print(f'Of one value everywhere, and so without shades: {", ".join(sorted(constants))}.')
    if enlarged:
        print(numbered(f'{{}} image[s] [is|are] smaller than {args.size} pixels and [was|were] '
                       'enlarged.', enlarged))
    report_failures(failures, len(files))


def _arguments() -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=named, metavar='MODEL')
    parser.add_argument('--out', type=named, required=True, metavar='FOLDER',
                        help='gets a folder for each image: figures, maps.npz, .json and .md')
    add_photograph_arguments(parser)
    parser.add_argument('--size', type=int, default=default.size, metavar='PIXELS',
                        help='side of the images (default: %(default)s, as published)')
    parser.add_argument('--stage', type=int, default=default.stage,
                        help='stage of the block, from 0 (default: %(default)s)')
    parser.add_argument('--block', type=int, default=default.block,
                        help='block of the stage, from 0; negative ones count from the end '
                        '(default: %(default)s)')
    parser.add_argument('--query', type=float, nargs=2, action='append', metavar=('X', 'Y'),
                        help='draw what the token here reads, 0 to 1 from the left and the top; '
                        'may be given several times (default: 0.5 0.5)')
    parser.add_argument('--map', choices=KINDS, default=default.kind,
                        help='attention: C B; decayed: with the decay; decay: the decay only; '
                        'operator: what the op multiplies tokens with (default: %(default)s)')
    parser.add_argument('--combine', choices=COMBINATIONS, default=default.combine,
                        help="add the routes' maps up, as the op does, or scale each and take the "
                        'mean (default: %(default)s)')
    parser.add_argument('--scale', choices=SCALES, default=default.scale,
                        help='of each map in the figures (default: %(default)s)')
    parser.add_argument('--stages-of-scan', type=int, default=default.scan_stages, metavar='N',
                        help='panels of scan.png (default: %(default)s)')
    parser.add_argument('--max-tokens', type=int, default=default.max_tokens, metavar='L',
                        help='of larger grids, rows and diagonals are drawn, and no whole maps '
                        '(default: %(default)s)')
    parser.add_argument('--peer', type=named, metavar='MODEL',
                        help='a vision transformer to draw beside, such as deit-small@FILE')
    parser.add_argument('--peer-layer', type=int, default=8, metavar='LAYER',
                        help='layer of the peer, from 0 (default: %(default)s)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    args = parser.parse_args()
    args.query = args.query or list(default.queries)
    return args


if __name__ == '__main__':
    run(main)
