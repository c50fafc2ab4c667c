"""Counts what is wrong with the training data and does not stop a run."""
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmvssd.compat.patching import when_imported, wrap_once
from mmvssd.engine.data.checks import data_of, data_sets_in, steps_of
from mmvssd.engine.data.data_survey import DataSurveyHook
from mmvssd.engine.data.data_survey.images import UNREADABLE
from mmvssd.engine.data.findings import WARN
from mmvssd.engine.data.training_data import unreadable_images_of
from mmvssd.host_internals import built_loop, is_resuming
from mmvssd.phrases import counted, numbered
from mmvssd.registry import HOOKS

#: What MMDetection leaves out of a COCO file without a word.
NO_AREA = '{} box[es] without area in [its|their] image, left out'
NO_SUCH_CLASS = "{} annotation[s] of no class of the recipe's, left out"
NO_ANNOTATION = '{} image[s] without an annotation, not trained on'
BACKGROUND = '{} image[s] without an annotation, trained on as background'

#: Where a data set keeps what it left out, by kind.
ATTRIBUTE = 'data_faults'

#: Iterations after which unreadable images are told of.
EVERY = 50


@HOOKS.register_module()
class DataFaultsHook(Hook):
    """Say what of the training data is left out, before a run and at its end.

    Images that cannot be read are told of when they are met; see
    :class:`mmvssd.engine.data.training_data.SeededDataset`. What cannot be left out stops a run
    (:class:`mmvssd.engine.data.batch_check.DataCheckHook`).
    """

    def before_run(self, runner) -> None:
        """Warn of what the annotations' reader left out, each kind with an example."""
        dataset = data_of(built_loop(runner, 'train'))
        self._left_out = faults_of(dataset) if dataset is not None else {}
        self._unreadable = Path(unreadable_images_of(runner.work_dir))
        # the run that is resumed told of its own
        self._told = len(self._lines()) if is_resuming(runner) else 0
        for kind, fault in self._left_out.items():
            _log(f'Training data: {numbered(kind, fault.count)}; the first: {fault.first}')

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Tell of images that could not be read, soon."""
        if self.every_n_train_iters(runner, EVERY):
            self._tell()

    def after_train_epoch(self, runner) -> None:
        """Tell of the images that could not be read."""
        self._tell()

    def after_train(self, runner) -> None:
        """Sum up."""
        counts = [numbered(kind, fault.count) for kind, fault in self._left_out.items()]
        unreadable = len(self._lines())
        if unreadable:
            counts.insert(0, f'{counted(unreadable, "image")} that cannot be read, others trained '
                             f'on in their place (listed in {self._unreadable})')
        survey = next((hook for hook in runner.hooks if isinstance(hook, DataSurveyHook)), None)
        doubts, looked_at = 0, ''
        if survey is not None:
            doubts = sum(found.where.startswith('train_') and found.what != UNREADABLE
                         for found in survey.findings.of(WARN))
            looked_at = survey.looked_at('train')
        told = f' ({counted(doubts, "doubt")} about them, see the start of the log)' * bool(doubts)
        _log(f'Faults of the training data: {"; ".join(counts) or "none seen"}{told}'
             f'. Looked at: annotations and images as they were read'
             f'{"; " if looked_at else ""}{looked_at}', logging.WARNING if counts else logging.INFO)

    def _lines(self) -> List[str]:
        return self._unreadable.read_text().splitlines() if self._unreadable.is_file() else []

    def _tell(self) -> None:
        if not is_main_process():
            return
        lines = self._lines()
        for line in lines[self._told:]:
            _log(f'{line}. Training goes on with another one in its place')
        self._told = len(lines)


def _log(message: str, level: int = logging.WARNING) -> None:
    if is_main_process():
        print_log(message, logger='current', level=level)


@dataclass
class Fault:
    """How often there is a kind of fault, and an example."""

    count: int
    first: str


def faults_of(dataset) -> Dict[str, Fault]:
    """Sum up what the data sets in a data set left out, by kind."""
    faults = {}
    for leaf in data_sets_in(dataset):
        for kind, fault in getattr(leaf, ATTRIBUTE, {}).items():
            total = faults.setdefault(kind, Fault(0, fault.first))
            total.count += fault.count
    return faults


def _patch_coco(module) -> None:
    wrap_once(module.CocoDataset, 'parse_data_info', _parse)
    wrap_once(module.CocoDataset, 'filter_data', _filter)


def _parse(original, dataset, raw: dict):
    """Read one image's annotations, and note those that the original leaves out."""
    parsed = original(dataset, raw)
    image = raw['raw_img_info']
    _name_instances(parsed, raw['raw_ann_info'])
    for annotation in raw['raw_ann_info']:
        if annotation.get('ignore', False):
            continue
        if annotation['category_id'] not in dataset.cat2label:
            _note(dataset, NO_SUCH_CLASS, 'annotation {} of {}, category {}', annotation.get('id'),
                  image['file_name'], annotation['category_id'])
        elif _is_empty(annotation, image):
            _note(dataset, NO_AREA, 'annotation {} of {}, bbox {}', annotation.get('id'),
                  image['file_name'], annotation['bbox'])
    return parsed


def _name_instances(parsed: dict, annotations: List[dict]) -> None:
    """Give what was read the ids of the annotations that it was read from, in their order."""
    remaining = iter(annotations)
    for instance in parsed['instances']:
        x1, y1, x2, y2 = instance['bbox']
        for annotation in remaining:
            x, y, width, height = annotation['bbox']
            if [x, y, x + width, y + height] == [x1, y1, x2, y2]:
                instance['ann_id'] = annotation.get('id')
                break


def _is_empty(annotation: dict, image: dict) -> bool:
    x, y, width, height = annotation['bbox']
    seen_width = min(x + width, image['width']) - max(x, 0)
    seen_height = min(y + height, image['height']) - max(y, 0)
    return (annotation['area'] <= 0 or width < 1 or height < 1
            or seen_width <= 0 or seen_height <= 0)


def _filter(original, dataset):
    """Leave out images as the original does, and note those that have no annotation."""
    kept = original(dataset)
    # images that a teacher labels have no annotations to miss
    taught = any(type(step).__name__ == 'LoadEmptyAnnotations' for step in steps_of(dataset))
    if not dataset.test_mode and not taught:
        names = {entry['img_id'] for entry in kept}
        for entry in dataset.data_list:
            if not entry['instances']:
                kind = BACKGROUND if entry['img_id'] in names else NO_ANNOTATION
                _note(dataset, kind, '{}', entry['img_path'])
    return kept


def _note(dataset, kind: str, text: str, *values) -> None:
    """Count a fault; only the first gets a text, for there may be hundreds of thousands."""
    faults = dataset.__dict__.setdefault(ATTRIBUTE, {})
    if kind in faults:
        faults[kind].count += 1
    else:
        faults[kind] = Fault(1, text.format(*values))


when_imported('mmdet.datasets.coco', _patch_coco)
