"""The command line of predictions, of ``tools/predict.py`` and ``python -m mmvssd.predict``."""
import argparse
from pathlib import Path
from typing import Optional

from mmvssd.cli.command_line import add_recipe_arguments, named
from mmvssd.cli.launch import load_config
from mmvssd.cli.predict import MAX_PIXELS, Options, predict, predict_with_file
from mmvssd.deployment.exported import RUNTIMES

DESCRIPTION = 'Predict on images or on a video; write pictures, and a JSON of all predictions.'
USAGE = ('%(prog)s [options] RECIPE CHECKPOINT IMAGES [IMAGES ...]\n'
         '       %(prog)s [options] --model FILE IMAGES [IMAGES ...]')


def main(name: Optional[str] = None) -> None:
    """Parse the arguments, and predict with a checkpoint or an exported file.

    Args:
        name: The command's name in its help; None takes that of its file.
    """
    parser = argparse.ArgumentParser(prog=name, description=DESCRIPTION, usage=USAGE)
    add_recipe_arguments(parser, needed=False)
    parser.add_argument('checkpoint', type=named, nargs='?', metavar='CHECKPOINT',
                        help='checkpoint to predict with')
    parser.add_argument('images', type=named, nargs='*', metavar='IMAGES',
                        help='images, patterns of their names, folders of images, .txt files with '
                        'one path on each line, or one video')
    parser.add_argument('--model', type=named, metavar='FILE',
                        help='in place of RECIPE and CHECKPOINT: a file that '
                        'tools/deployment/export.py wrote, .onnx or .xml of OpenVINO; it runs '
                        'without the hosts, on the CPU')
    parser.add_argument('--out-dir', type=named, default='predictions', metavar='FOLDER',
                        help='folder for pictures and predictions.json (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.3, metavar='SCORE',
                        help='leave out detections below SCORE (default: %(default)s)')
    parser.add_argument('--device', type=named,
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='PIXELS',
                        help='skip larger images, and those that the recipe enlarges beyond a '
                        'quarter of this (default: %(default)s)')
    parser.add_argument('--recursive', action='store_true',
                        help='take the images of sub-folders too')
    parser.add_argument('--resume', action='store_true',
                        help="continue the folder's predictions.json: skip the images that it has, "
                        'and go on with one that was cut into tiles; recipe, checkpoint, '
                        '--score-thr, --tta and tiles must be the same')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N',
                        help='run up to N images of one shape together (default: %(default)s)')
    parser.add_argument('--workers', type=int, metavar='N',
                        help='threads that read ahead and, on a CPU, predict; 0 for none; '
                        'default: one for each core, at most 4')
    parser.add_argument('--tile', type=int, metavar='PIXELS',
                        help='cut images into tiles of this side and merge the predictions, of '
                        'detectors and segmentors; --max-pixels then limits a tile')
    parser.add_argument('--overlap', type=int, metavar='PIXELS',
                        help='least overlap of neighbouring tiles; choose it larger than your '
                        'objects; default: an eighth of --tile')
    parser.add_argument('--tta', action='store_true',
                        help="predict with the recipe's test-time augmentations, averaged, of "
                        'segmentors; takes as many times as long as there are')
    # an option may stand between these, which can be missing
    args = parser.parse_intermixed_args()
    options = Options(**{name: getattr(args, name) for name in Options._fields})
    if args.model is None:
        if args.config and Path(args.config).suffix in RUNTIMES:
            parser.error(f'{args.config}: an exported file goes with --model: '
                         f'--model {args.config} IMAGES')
        given = dict(RECIPE=args.config, CHECKPOINT=args.checkpoint, IMAGES=args.images)
        missing = [name for name, value in given.items() if not value]
        if missing:
            parser.error(f'the following arguments are required: {", ".join(missing)}')
        predict(load_config(args.config, options=args.cfg_options), args.checkpoint, args.images,
                args.out_dir, device=args.device, options=options)
        return
    images = [path for path in (args.config, args.checkpoint) if path is not None] + args.images
    if not images:
        parser.error('the following arguments are required: IMAGES')
    if images[0].endswith('.py'):
        parser.error(f'--model: {args.model} has recipe and checkpoint in it; give only the '
                     f'images, got {" ".join(images)}')
    for name, value in (('--cfg-options', args.cfg_options), ('--device', args.device)):
        if value is not None:
            parser.error(f'{name}: does not go with --model: the recipe is in the file, which is '
                         'run on the CPU')
    predict_with_file(args.model, images, args.out_dir, options=options)
