"""Counts what is wrong with the training data and does not stop a run."""
import logging
from collections import defaultdict
from pathlib import Path
from typing import Dict, List

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop

from mmvssd.compat.patching import when_imported, wrap_once
from mmvssd.engine.data import data_sets_in
from mmvssd.engine.training_data import unreadable_images_of
from mmvssd.registry import HOOKS

#: What MMDetection leaves out of a COCO file without a word.
NO_AREA = 'boxes without area in their image, left out'
NO_SUCH_CLASS = "annotations of no class of the recipe's, left out"
NO_ANNOTATION = 'images without an annotation, not trained on'
BACKGROUND = 'images without an annotation, trained on as background'

#: Where a data set keeps what it left out: kind -> an entry for each.
ATTRIBUTE = 'data_faults'


@HOOKS.register_module()
class DataFaultsHook(Hook):
    """Say what of the training data is left out, before a run and at its end.

    Images that cannot be read are told of when they are met; see
    :class:`mmvssd.engine.training_data.SeededDataset`. What cannot be left out stops a run
    (:class:`mmvssd.engine.hooks.data_check.DataCheckHook`).
    """

    def before_run(self, runner) -> None:
        """Warn of what the annotations' reader left out, each kind with an example."""
        loop = runner._train_loop
        self._left_out = faults_of(loop.dataloader.dataset) if isinstance(loop, BaseLoop) else {}
        if is_main_process():
            for kind, entries in self._left_out.items():
                print_log(f'Training data: {len(entries)} {kind}; the first: {entries[0]}',
                          logger='current', level=logging.WARNING)

    def after_train(self, runner) -> None:
        """Sum up."""
        if not is_main_process():
            return
        counts = [f'{len(entries)} {kind}' for kind, entries in self._left_out.items()]
        file = Path(unreadable_images_of(runner.work_dir))
        if file.is_file():
            count = len(file.read_text().splitlines())
            counts.insert(0, f'{count} images that cannot be read, others trained on in their '
                             f'place (listed in {file})')
        print_log(f'Faults of the training data: {"; ".join(counts) or "none seen"}',
                  logger='current', level=logging.WARNING if counts else logging.INFO)


def faults_of(dataset) -> Dict[str, List[str]]:
    """What the data sets in a data set left out: kind -> an entry for each."""
    faults = defaultdict(list)
    for leaf in data_sets_in(dataset):
        for kind, entries in getattr(leaf, ATTRIBUTE, {}).items():
            faults[kind] += entries
    return faults


def _patch_coco(module) -> None:
    wrap_once(module.CocoDataset, 'parse_data_info', _parse)
    wrap_once(module.CocoDataset, 'filter_data', _filter)


def _parse(original, dataset, raw: dict):
    """Read one image's annotations, and note those that the original leaves out."""
    parsed = original(dataset, raw)
    image = raw['raw_img_info']
    for annotation in raw['raw_ann_info']:
        if annotation.get('ignore', False):
            continue
        name = f'annotation {annotation.get("id")} of {image["file_name"]}'
        if annotation['category_id'] not in dataset.cat_ids:
            _note(dataset, NO_SUCH_CLASS, f'{name}, category {annotation["category_id"]}')
        elif _is_empty(annotation, image):
            _note(dataset, NO_AREA, f'{name}, bbox {annotation["bbox"]}')
    return parsed


def _is_empty(annotation: dict, image: dict) -> bool:
    x, y, width, height = annotation['bbox']
    seen_width = min(x + width, image['width']) - max(x, 0)
    seen_height = min(y + height, image['height']) - max(y, 0)
    return (annotation['area'] <= 0 or width < 1 or height < 1
            or seen_width <= 0 or seen_height <= 0)


def _filter(original, dataset):
    """Leave out images as the original does, and note those that have no annotation."""
    kept = original(dataset)
    if not dataset.test_mode:
        names = {entry['img_id'] for entry in kept}
        for entry in dataset.data_list:
            if not entry['instances']:
                kind = BACKGROUND if entry['img_id'] in names else NO_ANNOTATION
                _note(dataset, kind, entry['img_path'])
    return kept


def _note(dataset, kind: str, entry: str) -> None:
    dataset.__dict__.setdefault(ATTRIBUTE, defaultdict(list))[kind].append(entry)


when_imported('mmdet.datasets.coco', _patch_coco)
