#!/usr/bin/env python
"""Convert a published checkpoint, or one of a training, for a model of one of the hosts."""
import argparse

from mmvssd.cli.command_line import run
from mmvssd.converters.command import convert_file, take_weights
from mmvssd.families import FAMILIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='SOURCE',
                        help='published checkpoint; with --weights one of a training')
    parser.add_argument('target', metavar='TARGET', help='checkpoint to write')
    parser.add_argument('--family', choices=tuple(FAMILIES),
                        help='family that the file must fit; default: detected')
    parser.add_argument('--arch', help='arch that the file must fit; default: detected')
    parser.add_argument('--key', help='entry that holds the weights, such as model or model_ema; '
                        'default: the first of model, state_dict, model_ema that there is')
    parser.add_argument('--weights', choices=('ema', 'raw'),
                        help='write only the moving average, or only the raw weights, of a '
                        'training with EMAHook')
    args = parser.parse_args()
    if args.weights:
        if args.family or args.arch or args.key:
            parser.error('--weights: the names stay as they are, --family, --arch and --key are '
                         'for published files')
        take_weights(args.source, args.target, args.weights)
        return
    convert_file(args.source, args.target, args.family, arch=args.arch, key=args.key)


if __name__ == '__main__':
    run(main)
