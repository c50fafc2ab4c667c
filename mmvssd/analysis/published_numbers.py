"""Published sizes, costs, speeds and accuracies of classifiers; none of them is measured here.

They are facts of three places: VMamba (arXiv 2401.10166), its repository, and the appendix of VSSD
(ICCV 2025). Speeds of VMamba are of an NVIDIA A100 with an AMD EPYC 7542; memory of VSSD's appendix
is of an RTX 4090, in inference and float32.
"""
from typing import NamedTuple, Optional, Tuple

from mmengine.fileio import load

from mmvssd.paths import configs_dir

#: Sides of the images of a :class:`Series`, in pixels.
SIZES = (224, 384, 512, 640, 768, 1024)

TABLE_1 = 'VMamba, Table 1'
TABLE_4 = 'VMamba, Table 4'
REPOSITORY = "VMamba's repository"
APPENDIX_1 = "VSSD's appendix, Table 1"
APPENDIX_2 = "VSSD's appendix, Table 2"

Numbers = Tuple[Optional[float], ...]


class Series(NamedTuple):
    """A classifier at all of :data:`SIZES`; speeds and memory at ``batches``.

    Attributes:
        source: Where it is published.
        model: What it is called there.
        name: What command lines call it.
        params: Millions.
        gflops: Multiply-adds of one image, in 1e9.
        top1: Percent, trained at 224.
        batches: Images of a step.
        images_per_second: In inference; None if not published.
        train_images_per_second: Forward and backward; None if not published.
        peak_mib: Of inference; None if not published. An entry that is None did not fit.
    """

    source: str
    model: str
    name: str
    params: float
    gflops: Numbers
    top1: Numbers
    batches: Tuple[int, ...]
    images_per_second: Optional[Numbers] = None
    train_images_per_second: Optional[Numbers] = None
    peak_mib: Optional[Numbers] = None


class Point(NamedTuple):
    """A classifier at 224 x 224; speeds at a batch of 128.

    Attributes:
        source: Where it is published.
        model: What it is called there.
        name: What command lines call it; None if no model here is that one.
        params: Millions; None if not listed here.
        gflops: Multiply-adds of one image, in 1e9; None if not listed here.
        images_per_second: In inference; None if not published.
        train_images_per_second: Forward and backward; None if not published.
        top1: Percent; None if not listed here.
    """

    source: str
    model: str
    name: Optional[str] = None
    params: Optional[float] = None
    gflops: Optional[float] = None
    images_per_second: Optional[float] = None
    train_images_per_second: Optional[float] = None
    top1: Optional[float] = None


_32 = (32, ) * 6
_APPENDIX = (128, 128, 128, 64, 64, 32)

SERIES = (
    Series(TABLE_4, 'ResNet50', 'resnet-50', 26, (4.1, 12.1, 21.5, 33.5, 48.3, 85.9),
           (76.4, 76.5, 73.4, 69.7, 65.3, 52.1), _32, (2988, 1192, 705, 435, 309, 181),
           (1005, 518, 305, 200, 142, 81)),
    Series(TABLE_4, 'ConvNeXt-T', 'convnext-tiny', 29, (4.5, 13.1, 23.3, 36.5, 52.5, 93.3),
           (82.0, 81.0, 78.0, 74.3, 69.5, 55.4), _32, (1107, 405, 225, 147, 103, 60),
           (613, 240, 140, 90, 63, 36)),
    Series(TABLE_4, 'DeiT-S', 'deit-small', 22, (4.6, 15.5, 31.8, 58.2, 98.7, 243.1),
           (80.7, 78.9, 74.2, 68.0, 70.0, 46.9), _32, (1559, 494, 256, 144, 87, 36),
           (1130, 695, 386, 243, 156, 73)),
    Series(TABLE_4, 'Swin-T', 'swin-tiny', 28, (4.5, 14.5, 26.6, 45.0, 70.7, 152.5),
           (81.2, 80.7, 79.0, 76.6, 73.1, 61.9), _32, (1061, 305, 168, 85, 52, 22),
           (740, 246, 122, 64, 36, 13)),
    Series(TABLE_4, 'HiViT-T', 'hivit-tiny', 19, (4.6, 15.2, 30.6, 54.8, 91.4, 218.9),
           (81.9, 81.5, 79.3, 76.0, 71.4, 58.9), _32, (1259, 392, 186, 93, 54, 21),
           (948, 332, 150, 71, 37, 11)),
    Series(TABLE_4, 'VMamba-T', 'vmamba-tiny-s2l5', 31, (4.9, 14.3, 25.4, 39.6, 57.1, 101.5),
           (82.5, 82.5, 81.1, 79.3, 76.1, 62.3), _32, (1226, 450, 272, 170, 117, 66),
           (398, 154, 100, 60, 42, 25)),
    Series(APPENDIX_1, 'ConvNeXt-T', 'convnext-tiny', 29, (4.5, 13.1, 23.3, 36.5, 52.5, 93.3),
           (82.1, 81.0, 78.0, 74.3, 69.5, 55.4), _APPENDIX,
           peak_mib=(1670, 4654, 8181, 6417, 9189, 8182)),
    Series(APPENDIX_1, 'Swin-T', 'swin-tiny', 28, (4.5, 14.0, 26.6, 45.0, 70.7, 152.5),
           (81.3, 80.7, 79.0, 76.6, 73.1, 61.9), _APPENDIX,
           peak_mib=(2402, 8118, 19731, 20893, None, None)),
    Series(APPENDIX_1, 'VMamba-T', 'vmamba-tiny-s1l8', 30, (4.9, 14.4, 25.4, 39.6, 57.1, 101.5),
           (82.6, 82.4, 80.9, 78.6, 74.7, 62.3), _APPENDIX,
           peak_mib=(3204, 9169, 16204, 12710, 18262, 16276)),
    Series(APPENDIX_1, 'VSSD-T', 'vssd-tiny-iccv2025', 28, (5.0, 15.4, 27.4, 42.8, 61.7, 109.6),
           (83.8, 83.5, 81.9, 79.4, 75.9, 65.0), _APPENDIX,
           peak_mib=(1946, 5537, 9751, 7645, 10954, 9750)),
)

POINTS = (
    *(Point(TABLE_1, model, name, images_per_second=infer, train_images_per_second=train)
      for model, name, infer, train in (
          ('DeiT-S', 'deit-small', 1759, 2397), ('DeiT-B', None, 500, 1024),
          ('ConvNeXt-T', 'convnext-tiny', 1189, 701), ('ConvNeXt-S', None, 682, 444),
          ('ConvNeXt-B', None, 435, 334), ('HiViT-T', 'hivit-tiny', 1391, 1300),
          ('HiViT-S', None, 711, 697), ('HiViT-B', None, 456, 541),
          ('Swin-T', 'swin-tiny', 1247, 985), ('Swin-S', None, 719, 640),
          ('Swin-B', None, 457, 494), ('S4ND-ConvNeXt-T', None, 684, 331),
          ('ViM-S', None, 811, 232), ('VMamba-T', 'vmamba-tiny-s2l5', 1335, 464),
          ('VMamba-S', 'vmamba-small-s2l15', 874, 313),
          ('VMamba-B', 'vmamba-base-s2l15', 645, 246))),
    *(Point(REPOSITORY, f'VMamba {name}', f'vmamba-{name}', images_per_second=infer,
            train_images_per_second=train)
      for name, infer, train in (
          ('tiny-s1l8', 1686, 571), ('small-s1l20', 1106, 390), ('base-s1l20', 827, 313),
          ('v0-tiny', 638, 195), ('v0-small', 359, 111), ('v0-base', 268, 84))),
    *(Point(APPENDIX_2, model, name, params, gflops, top1=top1)
      for model, name, params, gflops, top1 in (
          ('ConvFormer, tiny', 'timm:convformer_s18', 27, 3.9, 83.0),
          ('SG-Former, tiny', None, 23, 4.8, 83.2),
          ('MaxViT, tiny', 'timm:maxvit_tiny_tf_224', 31, 5.6, 83.6),
          ('BiFormer, tiny', None, 26, 4.5, 83.8), ('SMT, tiny', None, 20, 4.8, 83.7),
          ('CAFormer, tiny', 'timm:caformer_s18', 26, 4.1, 83.6),
          ('EffVMamba, tiny', None, 33, 4.0, 81.8), ('GrootVL, tiny', None, 30, 4.8, 83.4),
          ('VSSD, tiny', 'vssd-tiny-iccv2025', 28, 5.0, 83.8),
          ('ConvFormer, small', 'timm:convformer_s36', 40, 7.6, 84.1),
          ('SG-Former, small', None, 39, 7.5, 84.1),
          ('MaxViT, small', 'timm:maxvit_small_tf_224', 69, 11.7, 84.5),
          ('CAFormer, small', 'timm:caformer_s36', 39, 8.0, 84.5),
          ('BiFormer, small', None, 57, 9.8, 84.3), ('SMT, small', None, 32, 7.7, 84.3),
          ('GrootVL, small', None, 51, 8.5, 84.2),
          ('VSSD, small', 'vssd-small-iccv2025', 50, 8.1, 84.6),
          ('ConvFormer, base', 'timm:convformer_m36', 57, 12.8, 84.5),
          ('SG-Former, base', None, 78, 15.6, 84.7),
          ('CAFormer, base', 'timm:caformer_m36', 56, 13.2, 85.2),
          ('MaxViT, base', 'timm:maxvit_base_tf_224', 120, 23.4, 85.0),
          ('GrootVL, base', None, 91, 15.1, 84.8),
          ('VSSD, base', 'vssd-base-iccv2025', 89, 16.1, 85.4))),
)


def reproduced(measured: float, published: float) -> bool:
    """Tell if a number, rounded to as many digits behind the point, is the published one."""
    digits = len(f'{published}'.partition('.')[2])
    return f'{measured:.{digits}f}' == f'{published:.{digits}f}'


def published_top1(name: str, size: int) -> Optional[float]:
    """Return a classifier's published accuracy in percent; None if there is none.

    Args:
        name: What command lines call it, or the path of a recipe of the model zoo. At 224 the
            zoo's metafile has those of our models that no table here has.
        size: Side of the images in pixels.
    """
    values = [series.top1[SIZES.index(size)] for series in SERIES
              if series.name == name and size in SIZES]
    if size == 224:
        values += [point.top1 for point in POINTS if point.name == name]
        values += [entry['Results'][0]['Metrics'].get('Top 1 Accuracy')
                   for entry in load(configs_dir() / 'classification' / 'metafile.yml')['Models']
                   if name in (entry['Name'].partition('_')[0], entry['Config'],
                               entry['Config'].partition('/')[2])]
    return next(filter(None, values), None)
