"""Write down what a test found, for the page of a run."""
import logging
import math
import os
from numbers import Real
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

from mmvssd.engine.data.checks import data_sets_in
from mmvssd.engine.data.names import classes_of
from mmvssd.engine.record.details import classification, detection, segmentation
from mmvssd.files import strict_json, write_whole
from mmvssd.palettes import is_palette
from mmvssd.registry import HOOKS

#: File of a run's folder that holds the details.
FILE = 'test_details.json'
#: Images that are kept of the best, and of the worst.
KEPT = 8
#: Pictures that a process keeps before it forgets those that will not be shown.
MOST_PICTURES = 4 * KEPT
#: What is kept of an annotation; outlines of masks are large.
ANNOTATED = ('bbox', 'bbox_label', 'ignore_flag')
#: What takes each kind of prediction, by the field of a data sample that holds it.
TASKS = {'pred_instances': detection, 'pred_sem_seg': segmentation, 'pred_score': classification}


@HOOKS.register_module()
class TestDetailsHook(Hook):
    """Write ``test_details.json`` into a test's folder, beside its log.

    It holds scores by class, a confusion matrix, precision over recall, the calibration of a
    classifier, and the best and worst images with what was annotated and predicted. What is kept
    of an image is small, whatever the model's output is. A model of another kind is named in the
    log.
    """

    __test__ = False  # pytest takes it for one of its own

    def __init__(self):
        self._results: List[dict] = []
        self._pictured: List[dict] = []  # those of them that still have what is drawn
        self._annotations: Dict[str, list] = {}
        self._task: Any = None
        self._said = False

    def before_test(self, runner) -> None:
        """Learn what the images are annotated with; a pipeline may load it for another size."""
        self._results, self._pictured = [], []
        self._annotations, self._said = {}, False
        for leaf in data_sets_in(runner.test_dataloader.dataset):
            for index in range(len(leaf)) if hasattr(leaf, 'get_data_info') else ():
                entry = leaf.get_data_info(index)
                if isinstance(entry, dict) and 'instances' in entry and 'img_path' in entry:
                    self._annotations[str(entry['img_path'])] = [
                        {key: one[key] for key in ANNOTATED if key in one}
                        for one in entry['instances']]

    def after_test_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None,
                        outputs: Optional[Sequence[BaseDataElement]] = None) -> None:
        """Keep what is needed of each image."""
        for sample in outputs or ():
            try:
                self._see(sample)
            except Exception as error:  # of a model whose samples are unlike those that are known
                self._results.append({})
                if not self._said:
                    _warn(error)
                self._said = True

    def _see(self, sample: BaseDataElement) -> None:
        if not isinstance(sample, BaseDataElement):
            raise TypeError(f'{type(sample).__name__} is not a data sample')
        task = next((task for name, task in TASKS.items() if name in sample), None)
        if task is None:
            raise TypeError('no classes, boxes or label map were predicted')
        self._task = task
        path = str(sample.get('img_path', ''))
        result = dict(task.see(sample, self._annotations.get(path)), path=path)
        self._results.append(result)
        if result['quality'] is not None:
            self._pictured.append(result)
        if len(self._pictured) > MOST_PICTURES:
            self._forget_pictures()

    def _forget_pictures(self) -> None:
        """Forget what is drawn of all images but the best and the worst of this process."""
        worst, best = _extremes(self._pictured)
        chosen = {id(result) for result in worst + best}
        for result in self._pictured:
            result['shown'] = id(result) in chosen
            if not result['shown']:
                result.pop('picture', None)
        self._pictured = [result for result in self._pictured if result['shown']]

    def after_test_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Sum up over all processes, and write the file."""
        dataset = runner.test_dataloader.dataset
        self._forget_pictures()
        results = collect_results(self._results, len(dataset))
        self._results, self._pictured = [], []
        if not is_main_process() or self._task is None:
            return
        results = [result for result in results if result]
        classes = [str(name) for name in classes_of(dataset) or ()]
        content = dict(
            task=self._task.TASK, checkpoint=str(runner.cfg.get('load_from') or ''),
            folder=os.getcwd(),  # which paths of images may be relative to
            images=len(results), classes=classes, palette=_palette(dataset, len(classes)),
            scores={key: float(value) for key, value in (metrics or {}).items()
                    if isinstance(value, Real)})
        try:
            content.update(self._sum_up(results, classes))
        except Exception as error:  # as above; the test itself is done
            _warn(error)
        write_whole(Path(runner.log_dir) / FILE, strict_json(content))

    def _sum_up(self, results: Sequence[dict], classes: Sequence[str]) -> Dict[str, Any]:
        labelled = [result for result in results if result.get('quality') is not None]
        if not labelled:
            return {}
        worst, best = _apart([result for result in labelled if result['shown']])
        return dict(self._task.sum_up(labelled, classes),
                    worst=[self._task.shown(result) for result in worst],
                    best=[self._task.shown(result) for result in best])


def _palette(dataset, count: int) -> List[List[int]]:
    """Return an RGB color for each class; nothing if the data set has none of its own."""
    palette: Any = (getattr(dataset, 'metainfo', None) or {}).get('palette')
    return [[int(value) for value in color] for color in palette] if is_palette(
        palette, count) else []


def _extremes(results: Sequence[dict]) -> Tuple[List[dict], List[dict]]:
    """Return the worst and the best images; one that is empty and right shows nothing good."""
    ordered = sorted(results, key=_rank)
    telling = [result for result in ordered if not result.get('empty')]
    return ordered[:KEPT], telling[:-KEPT - 1:-1]


def _apart(results: Sequence[dict]) -> Tuple[List[dict], List[dict]]:
    """Return the worst and the best images; none is both, and none is best that has nothing right.

    Of a few images half may be the best.
    """
    worst, best = _extremes(results)
    best = [result for result in best[:len(results) // 2] if _rank(result)[0] > 0]
    taken = set(map(id, best))
    return [result for result in worst if id(result) not in taken], best


def _rank(result: dict) -> Tuple[float, str]:
    quality = result['quality']
    return -1 if math.isnan(quality) else quality, result['path']


def _warn(error: Exception) -> None:
    if is_main_process():
        print_log(f'Details of the test are incomplete ({type(error).__name__}: {error})',
                  logger='current', level=logging.WARNING)
