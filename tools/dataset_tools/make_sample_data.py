"""Make scenes of handwritten digits in the formats of COCO, ADE20K and ImageNet."""
import argparse
import sys

from mmvssd.datasets import make_sample_data


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('root', nargs='?', default='data/sample_digits', help='the folder to make')
    parser.add_argument('--num-scenes', nargs=2, type=int, default=(600, 100),
                        metavar=('TRAIN', 'VAL'), help='scenes, for coco/ and ade20k/')
    parser.add_argument('--num-crops', nargs=2, type=int, default=(3000, 500),
                        metavar=('TRAIN', 'VAL'), help='crops of one digit, for imagenet/')
    parser.add_argument('--image-size', type=int, default=128,
                        help='shorter side of a scene in pixels')
    parser.add_argument('--crop-size', type=int, default=64, help='side of a crop in pixels')
    parser.add_argument('--seed', type=int, default=0, help='the same seed gives the same pictures')
    parser.add_argument('--force', action='store_true',
                        help='replace sample data that was made with other arguments')
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        make_sample_data(
            args.root,
            num_scenes=args.num_scenes,
            num_crops=args.num_crops,
            image_size=args.image_size,
            crop_size=args.crop_size,
            seed=args.seed,
            overwrite=args.force,
            progress=not args.quiet)
    except (ValueError, OSError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
