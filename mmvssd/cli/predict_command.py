"""The command line of predictions, of ``tools/predict.py`` and ``python -m mmvssd.predict``."""
import argparse
from typing import Optional

from mmvssd.cli.command_line import add_recipe_arguments, named
from mmvssd.cli.launch import load_config
from mmvssd.cli.predict import MAX_PIXELS, predict, predict_with_file

DESCRIPTION = ('Predict on an image or a folder of images: pictures, and a JSON of all '
               'predictions.')
USAGE = '%(prog)s [options] config checkpoint images\n       %(prog)s [options] --model FILE images'


def main(name: Optional[str] = None) -> None:
    """Parse the arguments, and predict with a checkpoint or an exported file.

    Args:
        name: The command's name in its help; None takes that of its file.
    """
    parser = argparse.ArgumentParser(prog=name, description=DESCRIPTION, usage=USAGE)
    add_recipe_arguments(parser)
    parser.add_argument('checkpoint', type=named, nargs='?', help='weights to predict with')
    parser.add_argument('images', type=named, nargs='?', help='an image, or a folder of images')
    parser.add_argument('--model', type=named, metavar='FILE',
                        help='in place of config and checkpoint: a file that '
                        'tools/deployment/export.py wrote, .onnx or .xml of OpenVINO; it is run '
                        'without the hosts, on the CPU')
    parser.add_argument('--out-dir', type=named, default='predictions', metavar='FOLDER',
                        help='folder for pictures and predictions.json (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.3, metavar='SCORE',
                        help='leave out detections below SCORE (default: %(default)s)')
    parser.add_argument('--device', type=named,
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='PIXELS',
                        help='leave out images of more pixels, and those that the recipe hands the '
                        'model with more than a quarter of it (default: %(default)s)')
    args = parser.parse_args()
    options = dict(score_thr=args.score_thr, max_pixels=args.max_pixels)
    if args.model is None:
        if args.images is None:
            missing = ['checkpoint'] * (args.checkpoint is None) + ['images']
            parser.error(f'the following arguments are required: {", ".join(missing)}')
        predict(load_config(args.config, options=args.cfg_options), args.checkpoint, args.images,
                args.out_dir, device=args.device, **options)
        return
    if args.checkpoint is not None:
        parser.error(f'--model: {args.model} has recipe and weights in it; give the images only, '
                     f'got {args.config} {args.checkpoint} {args.images or ""}'.rstrip())
    for name, value in (('--cfg-options', args.cfg_options), ('--device', args.device)):
        if value is not None:
            parser.error(f'{name}: does not go with --model: the recipe is in the file, which is '
                         'run on the CPU')
    predict_with_file(args.model, args.config, args.out_dir, **options)
