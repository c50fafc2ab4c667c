"""The text of a new recipe."""
import colorsys
import os
from pathlib import Path
from textwrap import indent
from typing import Any, Dict, List, Optional, Tuple

from mmvssd.cli.ahead import default_workers
from mmvssd.datasets.formats import (
    CLASSIFICATION,
    DETECTION,
    SEGMENTATION,
    TEST,
    TRAIN,
    VAL,
)
from mmvssd.new_recipe.bands import Bands
from mmvssd.new_recipe.literals import literal, sequence
from mmvssd.new_recipe.models import Arch
from mmvssd.new_recipe.painting import BACKGROUND
from mmvssd.new_recipe.schedule import Schedule
from mmvssd.new_recipe.survey import TASKS, Survey
from mmvssd.paths import project_root
from mmvssd.phrases import counted

#: Sides that COCO's recipe resizes images to, and the shorter side that objects are found at.
COCO_SHORT, COCO_LONG, SMALLEST = 800, 1333, 256
#: Side of the crops that UperNet is trained on.
CROP = 512
#: Shares of the single scale that --tta averages over, as in ADE20K's recipe.
TTA_SHARES = (0.75, 1, 1.25)
#: Sides are multiples of the backbone's coarsest stride.
STRIDE = 32
#: Channels of a photograph.
RGB = 3
#: Settings of a preprocessor that leaves images as they are.
NO_NORM = 'mean=None, std=None'
#: Pipelines of a classifier of bands: the published recipe's are for colours.
CLASSIFIED_BANDS = """\
train_pipeline = [
    load_bands,
    dict(type='RandomResizedCrop', scale=224, interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    load_bands,
    dict(type='ResizeEdge', scale=256, edge='short', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

"""
#: Classes that are black in pictures, so that the others stand out. Without names, 0 of a label map
#: is most often what nothing covers.
NEUTRAL = (*BACKGROUND, 'class_0')
#: Classes from which on the best five are scored too.
TOP_FIVE = 5


def recipe_text(survey: Survey, arch: Arch, schedule: Schedule, checkpoint: Optional[Path],
                settings: Dict[str, Dict[str, Any]], out: Path, origin: str) -> str:
    """Return the text of a recipe.

    Args:
        survey: The data.
        arch: The arch with its recipe.
        schedule: The schedule.
        checkpoint: What the backbone starts from; None for nothing.
        settings: By part, the settings of a data set that reads it.
        out: The recipe's file.
        origin: The data as they were named.
    """
    blocks = [_head(survey, arch, out, origin), _classes(survey)]
    if survey.bands:
        blocks.append(_load_bands(survey.bands))
    if survey.data.task == DETECTION:
        blocks += [_detector(survey, arch, checkpoint), _detection_data(survey, settings, schedule)]
    elif survey.data.task == CLASSIFICATION:
        blocks += [_classifier(survey, arch, checkpoint),
                   _classification_data(survey, settings, schedule)]
    else:
        blocks += [_segmentor(survey, arch, checkpoint),
                   _segmentation_data(survey, settings, schedule)]
    blocks.append(_schedule(survey, schedule))
    return '\n\n'.join(blocks) + '\n'


def _head(survey: Survey, arch: Arch, out: Path, origin: str) -> str:
    bases = [literal(_path_of_base(base, out)) for base in arch.bases]
    base = bases[0] if len(bases) == 1 else '[\n    ' + ',\n    '.join(bases) + ',\n]'
    parts = ', '.join(f'{len(part.items)} {name}'
                      for name, part in survey.data.parts.items())
    return (f'# {TASKS[survey.data.task].capitalize()} with {arch.name}: '
            f'{counted(len(survey.data.classes), "class")}, images: {parts}.\n'
            f'# Made of {origin!a} by tools/new_recipe.py; change what you like.\n'
            f'_base_ = {base}')


def _path_of_base(base: Path, out: Path) -> str:
    """Return a path from the recipe in a checkout, so that both may move; else an absolute one."""
    root = project_root()
    if root in out.parents:
        return os.path.relpath(base, out.parent)
    return str(base)


def _classes(survey: Survey) -> str:
    text = f'classes = {sequence(survey.data.classes, "(", ")", 4)}'
    if survey.data.task == CLASSIFICATION:
        return text
    palette = survey.data.palette or colours(len(survey.data.classes))
    if survey.data.task == SEGMENTATION and not survey.data.palette:
        palette = [(0, 0, 0) if name.lower() in NEUTRAL else colour
                   for name, colour in zip(survey.data.classes, palette)]
    return (f'{text}\npalette = {sequence([tuple(colour) for colour in palette], "[", "]", 4)}\n'
            'metainfo = dict(classes=classes, palette=palette)')


def colours(count: int) -> List[Tuple[int, int, int]]:
    """Return RGB colours that are far apart."""
    hues = [(index * (5 ** 0.5 - 1) / 2) % 1 for index in range(count)]
    values = [(1.0, 0.75, 0.5)[index // 8 % 3] for index in range(count)]
    shades = [colorsys.hsv_to_rgb(hue, 0.85, value) for hue, value in zip(hues, values)]
    return [(round(255 * red), round(255 * green), round(255 * blue))
            for red, green, blue in shades]


def _load_bands(bands: Bands) -> str:
    numbers = [band.number for band in bands.bands]
    lines = [f'bands={numbers},  # others have one value throughout'] if bands.left_out else []
    lines += [f'{name}=' + sequence([float(f'{getattr(band, name):.7g}') for band in bands.bands],
                                    '[', ']', 8) + ',' for name in ('mean', 'std')]
    if bands.nodata:
        lines.append(f'nodata={literal(list(bands.nodata))},')
    return (f'# {counted(bands.kind.bands, "band")} of {bands.kind.dtype}; mean and std of '
            f'{bands.images} images of training\nload_bands = dict(\n'
            + indent('\n'.join(["type='mmvssd.LoadBands',", *lines]), '    ') + '\n)')


def _load(survey: Survey) -> str:
    """Return the step that loads an image."""
    return 'load_bands' if survey.bands else "dict(type='LoadImageFromFile')"


def _wiring(arch: Arch, *lines: str) -> List[str]:
    """Return the lines that join a backbone with a task's recipe, unless a recipe did."""
    return list(lines) if len(arch.bases) > 1 else []


def _backbone(survey: Survey, arch: Arch, checkpoint: Optional[Path]) -> List[str]:
    """Return the backbone's settings, each a line."""
    classifies = survey.data.task == CLASSIFICATION
    channels = len(survey.bands.bands) if survey.bands else RGB
    adapted = '' if channels == RGB else ", adapt_stem='average'"  # a checkpoint is of RGB
    if checkpoint is None:
        start = [] if classifies else ['init_cfg=None,  # random weights: scores stay far below '
                                       'those of a pretrained backbone']
    else:
        kind = "type='Pretrained', prefix='backbone.', " if classifies else ''
        start = [f'init_cfg=dict({kind}checkpoint={literal(str(checkpoint))}{adapted}),']
    if channels != RGB:
        start.append(f'in_channels={channels},')
    if start or len(arch.bases) > 1:
        own = _wiring(arch, '**_base_.backbone,')
        return ['backbone=dict(', *(f'    {line}' for line in [*start, *own]), '),']
    return []


def _unnormalized(survey: Survey) -> List[str]:
    """Return the preprocessor's setting of images that LoadBands normalizes."""
    return ([f'data_preprocessor=dict({NO_NORM}, bgr_to_rgb=False),'] if survey.bands else [])


def _model(*lines: str) -> str:
    return 'model = dict(\n' + indent('\n'.join(lines), '    ') + '\n)'


def _detector(survey: Survey, arch: Arch, checkpoint: Optional[Path]) -> str:
    count = len(survey.data.classes)
    heads = [f'bbox_head=dict(num_classes={count}),']
    if survey.masks:
        heads.append(f'mask_head=dict(num_classes={count}),')
    else:
        heads += ['mask_roi_extractor=None,  # the data have boxes only: Faster R-CNN',
                  'mask_head=None,']
    kind = [] if survey.masks else ["type='FasterRCNN',"]
    return _model(*kind, *_unnormalized(survey), *_backbone(survey, arch, checkpoint),
                  *_wiring(arch, 'neck=dict(in_channels=_base_.dims),'),
                  'roi_head=dict(', *(f'    {line}' for line in heads), '),')


def _segmentor(survey: Survey, arch: Arch, checkpoint: Optional[Path]) -> str:
    count, side = len(survey.data.classes), crop_of(survey)
    main = ''.join(_wiring(arch, ', in_channels=_base_.dims'))
    auxiliary = ''.join(_wiring(arch, ', in_channels=_base_.dims[2]'))
    own = f', {NO_NORM}, bgr_to_rgb=False' if survey.bands else ''
    return _model(f'data_preprocessor=dict(size=({side}, {side}){own}),',
                  *_backbone(survey, arch, checkpoint),
                  f'decode_head=dict(num_classes={count}{main}),',
                  f'auxiliary_head=dict(num_classes={count}{auxiliary}),')


def _classifier(survey: Survey, arch: Arch, checkpoint: Optional[Path]) -> str:
    count = len(survey.data.classes)
    width = ''.join(_wiring(arch, ', in_channels=_base_.dims[-1]'))
    own = f', {NO_NORM}, to_rgb=False' if survey.bands else ''
    return _model(*_backbone(survey, arch, checkpoint),
                  f'head=dict(num_classes={count}{width}),') + (
        f'\ndata_preprocessor = dict(num_classes={count}{own})')


def scale_of(survey: Survey) -> Tuple[int, int]:
    """Return the (longer, shorter) side that a detector's images are resized to.

    The shorter side is the median image's, within limits. The longer one has room for the median
    image as long as there are no more pixels than in COCO's recipe.
    """
    short, long = survey.median_size
    side = min(COCO_SHORT, max(SMALLEST, STRIDE * round(short / STRIDE)))
    room = max(COCO_LONG / COCO_SHORT, long / short) * side
    return round(min(room, COCO_LONG * COCO_SHORT / side)), side


def crop_of(survey: Survey) -> int:
    """Return the side of the crops that a segmentor is trained on."""
    short, _ = survey.median_size
    return max(2 * STRIDE, min(CROP, STRIDE * round(short / STRIDE)))


def _dict(entries: Dict[str, Any]) -> str:
    """Return settings as the arguments of ``dict``."""
    return ', '.join(f'{key}=dict({_dict(value)})' if isinstance(value, dict)
                     else f'{key}={literal(value)}' for key, value in entries.items())


def _dataset(head: str, settings: Dict[str, Any], *tail: str) -> str:
    lines = [head, *(f'{_dict({key: value})},' for key, value in settings.items()), *tail]
    return 'dataset=dict(\n' + indent('\n'.join(lines), '    ') + '\n),'


def _loaders(datasets: Dict[str, str], schedule: Schedule) -> str:
    """Return the loaders of all parts; without a part for testing, validation's serves."""
    batch = f'batch_size={schedule.batch},\n'
    workers = f'num_workers={default_workers()},\n'  # more than there are cores, and PyTorch warns
    texts = [f'{name}_dataloader = dict(\n'
             + indent((batch if name == TRAIN else '') + workers + text, '    ') + '\n)'
             for name, text in datasets.items()]
    if TEST not in datasets:
        texts.append('test_dataloader = val_dataloader')
    return '\n'.join(texts)


def _detection_data(survey: Survey, settings: Dict[str, Dict[str, Any]],
                    schedule: Schedule) -> str:
    scale, masks = scale_of(survey), survey.masks
    load = f"dict(type='LoadAnnotations', with_bbox=True, with_mask={masks})"
    changed = scale != (COCO_LONG, COCO_SHORT) or not masks or survey.bands is not None
    blocks = []
    if changed:
        short, long = survey.median_size
        blocks.append(f"""\
# the median image has sides of {long} and {short}, COCO's recipe has {(COCO_LONG, COCO_SHORT)}:
# larger ones take longer and show smaller objects
train_pipeline = [
    {_load(survey)},
    {load},
    dict(type='Resize', scale={scale}, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    {_load(survey)},
    dict(type='Resize', scale={scale}, keep_ratio=True),
    {load},
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]""")
    root = f'data_root={literal(str(survey.root))},'
    datasets = {}
    for name, entry in settings.items():
        tail = ['filter_cfg=dict(filter_empty_gt=False, min_size=1),  # background is trained on'
                ] if name == TRAIN else []
        if changed:
            tail.append(f'pipeline={"train" if name == TRAIN else "test"}_pipeline,')
        datasets[name] = _dataset(f'{root}\nmetainfo=metainfo,', entry, *tail)
    blocks.append(_loaders(datasets, schedule))
    metric = '' if masks else ", metric='bbox'"
    scored = {VAL: settings[VAL], TEST: settings.get(TEST)}
    blocks.append('\n'.join(
        f'{name}_evaluator = dict(ann_file={literal(entry["ann_file"])}{metric})' if entry
        else f'{name}_evaluator = val_evaluator' for name, entry in scored.items()))
    return '\n\n'.join(blocks)


def _segmentation_data(survey: Survey, settings: Dict[str, Dict[str, Any]],
                       schedule: Schedule) -> str:
    side = crop_of(survey)
    scale = (4 * side, side)
    augmented = tuple((4 * short, short) for short in (round(side * share) for share in TTA_SHARES))
    colours = '' if survey.bands else "    dict(type='PhotoMetricDistortion'),\n"
    pipelines = f"""\
train_pipeline = [
    {_load(survey)},
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale={scale}, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=({side}, {side}), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
{colours}    dict(type='PackSegInputs'),
]
test_pipeline = [
    {_load(survey)},
    dict(type='Resize', scale={scale}, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# --tta: the mean over three sizes, each as it is and mirrored
tta_pipeline = [
    {_load(survey)},
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=scale, keep_ratio=True)
             for scale in {augmented}],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0., 1.)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ]),
]"""
    zero = ('reduce_zero_label=True,  # 0 is not labelled, classes count from 1'
            if survey.data.ignore_zero else 'reduce_zero_label=False,')
    head = (f"type='BaseSegDataset',\ndata_root={literal(str(survey.root))},\n"
            f'metainfo=metainfo,\n{zero}')
    datasets = {name: _dataset(head, entry,
                               f'pipeline={"train" if name == TRAIN else "test"}_pipeline,')
                for name, entry in settings.items()}
    return f'{pipelines}\n\n{_loaders(datasets, schedule)}'


def _classification_data(survey: Survey, settings: Dict[str, Dict[str, Any]],
                         schedule: Schedule) -> str:
    base = '' if survey.bands else '_base_.'
    datasets = {name: _dataset(
        "_delete_=True,\ntype='CustomDataset',\nmetainfo=dict(classes=classes),", entry,
        f'pipeline={base}{"train" if name == TRAIN else "test"}_pipeline,')
        for name, entry in settings.items()}
    text = (CLASSIFIED_BANDS if survey.bands else '') + _loaders(datasets, schedule)
    if len(survey.data.classes) < TOP_FIVE:
        text += '\n\nval_evaluator = dict(topk=(1, ))\ntest_evaluator = val_evaluator'
    return text


def _schedule(survey: Survey, schedule: Schedule) -> str:
    published, batch = schedule.published
    arithmetic = (
        f'# {counted(schedule.images, "image")} in batches of {schedule.batch}: '
        f'{counted(schedule.steps_per_epoch, "step")} an epoch, {schedule.steps} in all')
    rate = (f"# the recipe has {published:g} for {counted(batch, 'image')} a step, and AdamW's "
            "rate goes with the batch's root:\n"
            f'# {published:g} * ({schedule.batch} / {batch}) ** 0.5 = {schedule.rate:g}\n'
            f'optim_wrapper = dict(optimizer=dict(lr={schedule.rate:g}))\n'
            '# by that root and not in proportion, as the host would\n'
            f'auto_scale_lr = dict(enable=False, base_batch_size={schedule.batch})')
    parts = {DETECTION: _epochs_of_detection, CLASSIFICATION: _epochs_of_classification}
    own = parts.get(survey.data.task, _steps_of_segmentation)(schedule)
    return f'{arithmetic}\n{own}\n{rate}'


def _epochs_of_detection(schedule: Schedule) -> str:
    epochs = schedule.epochs
    first, second = max(1, round(epochs * 8 / 12)), max(2, round(epochs * 11 / 12))
    return f"""\
max_epochs = {epochs}
train_cfg = dict(max_epochs=max_epochs, val_interval={schedule.interval})
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end={schedule.warm_up}),
    dict(type='MultiStepLR', by_epoch=True, end=max_epochs, milestones=[{first}, {second}]),
]
{_hooks(schedule, schedule.interval)}"""


def _epochs_of_classification(schedule: Schedule) -> str:
    return f"""\
max_epochs = {schedule.epochs}
train_cfg = dict(max_epochs=max_epochs, val_interval={schedule.interval})
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end={schedule.warm_up}),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin={schedule.warm_up},
         end={max(schedule.steps, schedule.warm_up + 1)}),
]
{_hooks(schedule, schedule.interval)}
custom_hooks = []  # an average over 10,000 steps is too slow for a short training"""


def _steps_of_segmentation(schedule: Schedule) -> str:
    interval = schedule.interval * schedule.steps_per_epoch
    steps = max(schedule.steps, schedule.warm_up + 1)
    return f"""\
max_iters = {steps}  # {counted(schedule.epochs, 'epoch')}
train_cfg = dict(max_iters=max_iters, val_interval={interval})
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, end={schedule.warm_up}),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin={schedule.warm_up},
         end=max_iters),
]
{_hooks(schedule, interval, 'mIoU')}"""


def _hooks(schedule: Schedule, interval: int, best: str = 'auto') -> str:
    return (f'default_hooks = dict(\n    logger=dict(interval={schedule.log_interval}),\n'
            f'    checkpoint=dict(interval={interval}, max_keep_ckpts=2, save_best={best!r}),\n)')
