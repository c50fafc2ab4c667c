"""A survey of whole data sets before a run: faults stop it, doubts are warned of, all at once."""
import hashlib
import logging
import math
import os
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from mmvssd.checkpoint import unwrapped
from mmvssd.engine.data import batches, coco, listings, names
from mmvssd.engine.data.checks import (
    data_of,
    data_sets_in,
    dicts_of,
    is_remote,
    needs_labels,
    steps_of,
)
from mmvssd.engine.data.file_facts import MISSING, FileFacts, header, label_map, upright_size
from mmvssd.engine.data.findings import STOP, WARN, Findings, from_json
from mmvssd.engine.data.label_maps import LabelMaps
from mmvssd.errors import DataError
from mmvssd.host_internals import built_loop, filled
from mmvssd.registry import HOOKS

PHASES = ('train', 'val', 'test')
#: Entries of a data set that are looked at, evenly spread over more.
MOST_ENTRIES = 50_000
#: Images of validation that are compared with those of training.
MOST_COMPARED = 1000
#: Share of images of another size than in the annotations from which on it is no slip.
FEW = 0.01
#: Images that PIL cannot read and that the pipeline's own step is tried on.
MOST_TRIED = 100
#: What is kept of an entry.
KEPT = ('img_path', 'seg_map_path', 'width', 'height', 'gt_label')
#: What is said of images that a training replaces.
UNREADABLE = '{} images cannot be read, others are trained on in their place'
#: File of the work dir that remembers what was read.
CACHE = 'data_survey.json'


@HOOKS.register_module()
class DataSurveyHook(Hook):
    """Look at the data sets of a run as wholes, before they are read and before the first step.

    The first process looks, the others wait for its verdict. Data sets of a kind that it does not
    know are named in the log as not looked at.

    Args:
        seconds: Time for reading images' headers and label maps. What is left then is not
            looked at, which the log says; files that did not change are not read again.
    """

    def __init__(self, seconds: float = 45.):
        self.seconds = seconds
        self.findings = Findings()
        self._surveyed: set = set()

    def looked_at(self, phase: str) -> str:
        """Return what was looked at of a phase, and what was not."""
        parts = [text.partition(': ')[2] for text in self.findings.looked_at
                 if text.startswith(f'{phase}: ')]
        parts += [f'not {text}' for text in self.findings.not_looked_at
                  if text.startswith(f'{phase}_')]
        return '; '.join(parts)

    def look_before_building(self, runner) -> None:
        """Have annotation files, lists and folders looked at before a loop reads them."""
        for phase in PHASES:
            name = f'build_{phase}_loop'
            setattr(runner, name, partial(self._build, runner, phase, getattr(runner, name)))

    def _look_at_built(self, runner) -> None:
        built = Built(runner, self.findings, FileFacts(_cache_of(runner), self.seconds))
        built.check(list(built.leaves()))

    def _build(self, runner, phase: str, build: Callable, loop: Any) -> Any:
        phases = ('train', 'val') if phase == 'train' else (phase, )
        phases = [one for one in phases if one not in self._surveyed and isinstance(
            runner.cfg.get(f'{one}_dataloader'), dict)]
        if isinstance(loop, dict) and phases:
            self._surveyed.update(phases)
            _decide_together(self.findings, partial(self._look_at_files, runner, phases))
        built = build(loop)
        # before a schedule is made for so many
        _decide_together(self.findings, lambda: batches.check_count(
            getattr(built, 'dataloader', None), f'{phase}_dataloader', self.findings))
        return built

    def _look_at_files(self, runner, phases: Sequence[str]) -> None:
        files = Files(runner.cfg, self.findings, FileFacts(_cache_of(runner), math.inf))
        files.check(phases)
        if self.findings.of(STOP):  # nothing will be built: look now at what can be
            built = Built(runner, self.findings, FileFacts(_cache_of(runner), self.seconds))
            built.check([leaf for phase, labelled, dataset in files.readable(phases)
                         for leaf in built.leaves_of(dataset, phase, labelled)])

    def before_run(self, runner) -> None:
        """Look at the data sets as they were built, and warn of what is doubtful.

        Raises:
            DataError: There are faults; all of them are in it.
        """
        _decide_together(self.findings, partial(self._look_at_built, runner))
        for found in self.findings.of(WARN):
            _log(f'Doubtful data: {found}')
        for text in self.findings.not_looked_at:
            _log(f'Data not looked at: {text}')
        if self.findings.looked_at:
            _log(f'Data looked at: {"; ".join(self.findings.looked_at)}', logging.INFO)


def _cache_of(runner) -> Optional[Path]:
    return Path(runner.work_dir) / CACHE if runner.work_dir else None


def _log(message: str, level: int = logging.WARNING) -> None:
    if is_main_process():
        print_log(message, logger='current', level=level)


def _decide_together(findings: Findings, look: Callable[[], None]) -> None:
    """Look in the first process; raise an error in all if there are faults."""
    stopped = [False]
    if is_main_process():
        _guarded(findings, 'the data', look)
        stopped = [bool(findings.of(STOP))]
    broadcast_object_list(stopped, src=0)
    if stopped[0] and is_main_process():
        raise DataError(f"{findings.text()}\nIf the data are meant so, leave this check out with "
                        "unguarded=['data_survey']")
    if stopped[0]:
        raise DataError('the first process found faults of the data, and says which')


def _guarded(findings: Findings, what: str, look: Callable[[], None]) -> None:
    """Look at something; what cannot be looked at is noted and stops nothing."""
    try:
        look()
    except DataError as error:
        findings.stop(what.partition(': its')[0], str(error))
    except Exception as error:  # of a data set that is unlike those that are known
        findings.not_looked_at.append(f'{what} ({type(error).__name__}: {error})')


def _kind_is(dataset, module: str, name: str, *methods: str) -> bool:
    """Tell whether a data set reads its files as a class of the hosts does."""
    for kind in type(dataset).__mro__:
        if kind.__name__ == name and kind.__module__.startswith(module):
            return all(getattr(type(dataset), method) is getattr(kind, method)
                       for method in methods)
    return False


def _reads_coco(dataset) -> bool:
    return _kind_is(dataset, 'mmdet.', 'CocoDataset', 'load_data_list', 'parse_data_info')


def _reads_classes(dataset) -> bool:
    return _kind_is(dataset, 'mmpretrain.', 'CustomDataset', 'load_data_list', '_find_samples')


def _reads_label_maps(dataset) -> bool:
    return _kind_is(dataset, 'mmseg.', 'BaseSegDataset', 'load_data_list')


class Files:
    """The files of a recipe's data sets, before anything is built of them."""

    def __init__(self, cfg, findings: Findings, facts: FileFacts):
        self.cfg, self.findings, self.facts = cfg, findings, facts

    def check(self, phases: Sequence[str]) -> None:
        """Look at the settings of loaders and the files of data sets."""
        for phase in phases:
            loader = self.cfg[f'{phase}_dataloader']
            batches.check_settings(loader, f'{phase}_dataloader', self.findings)
            kept = [self._check_dataset(phase, entry) for entry in _data_sets_of(loader)]
            self._check_annotated(phase, [one for one in kept if one is not None])
        self.facts.save()

    def _check_dataset(self, phase: str, entry: dict) -> Optional[coco.Summary]:
        name = f'{phase}_dataloader, {getattr(entry["type"], "__name__", entry["type"])}'
        metainfo = entry.get('metainfo')
        if isinstance(metainfo, dict):
            names.check_setting(metainfo.get('classes'), name, self.findings)
        if any(map(is_remote, dicts_of(entry))):
            self.findings.not_looked_at.append(f'{name}: its files are elsewhere')
            return None
        found: List[coco.Summary] = []
        _guarded(self.findings, f'{name}: its files',
                 lambda: found.extend(self._look(phase, entry, name)))
        return found[0] if found else None

    def _look(self, phase: str, entry: dict, name: str) -> Iterator[coco.Summary]:
        # the host resolves its paths itself
        dataset = DATASETS.build(dict(entry, lazy_init=True, pipeline=[]))
        if _reads_coco(dataset):
            yield self._check_coco(phase, dataset, name)
        elif _reads_classes(dataset) and dataset.with_label:
            look = (listings.check_class_list if dataset.ann_file
                    else listings.check_class_folders)
            look(dataset, name, self.findings)
        elif _reads_label_maps(dataset):
            if dataset.ann_file and not os.path.isdir(dataset.ann_file):
                listings.check_name_list(dataset, name, self.findings)
            else:
                listings.check_folder(dataset, name, self.findings, self._labelled(phase))
        elif not _reads_classes(dataset):
            self.findings.not_looked_at.append(f'{name}: its files, which are of another kind')

    def readable(self, phases: Sequence[str]) -> Iterator[Tuple[str, bool, Any]]:
        """Yield the data sets that can be built, faults and all, with their phase."""
        for phase in phases:
            for entry in _data_sets_of(self.cfg[f'{phase}_dataloader']):
                try:
                    yield phase, self._labelled(phase), DATASETS.build(dict(entry))
                except Exception:  # of the faults that were found
                    found: List[Any] = []
                    _guarded(Findings(), '', partial(self._add_listed, entry, found))
                    yield from ((phase, self._labelled(phase), dataset) for dataset in found)

    def _add_listed(self, entry: dict, found: List[Any]) -> None:
        """Add a data set of the images that a COCO file lists, without annotations."""
        dataset = DATASETS.build(dict(entry, lazy_init=True))
        if _reads_coco(dataset):
            folder = dataset.data_prefix.get('img') or ''
            found.append(filled(dataset, [
                dict(image, img_path=os.path.join(folder, image['file_name']))
                for image in coco.read_json(dataset.ann_file)['images']]))

    def _labelled(self, phase: str) -> bool:
        return phase == 'train' or any(map(needs_labels, dicts_of(
            self.cfg.get(f'{phase}_evaluator'))))

    def _check_coco(self, phase: str, dataset, name: str) -> coco.Summary:
        where = f'{name}: {dataset.ann_file}'
        masks = any(entry.get('with_mask') for entry in dicts_of(
            self.cfg[f'{phase}_dataloader']))
        metrics = [entry for entry in dicts_of(self.cfg.get(f'{phase}_evaluator'))
                   if str(entry.get('type')).rpartition('.')[2].startswith('Coco')
                   or getattr(entry.get('type'), '__name__', '').startswith('Coco')]
        scored = phase != 'train' and self._labelled(phase) and bool(metrics)
        masks |= scored and any('segm' in (entry.get('metric') or ()) for entry in metrics)
        use = coco.Use(masks, scored, dataset.data_prefix.get('img'))
        summary = self._summary(dataset.ann_file, where, use)
        names.check_categories(dataset, summary, where, self.findings)
        if phase == 'train' and summary.annotations and names.classes_of(dataset):
            names.check_occurrence(summary.boxes, names.classes_of(dataset), where, self.findings)
        self.findings.looked_at.append(
            f'{phase}: {summary.annotations} annotations of {len(summary.images)} images in '
            f'{dataset.ann_file}')
        for metric in metrics if scored else ():
            self._check_scored_file(metric.get('ann_file'), dataset, summary, phase, use)
        return summary

    def _check_scored_file(self, file: Optional[str], dataset, summary: coco.Summary, phase: str,
                           use: coco.Use) -> None:
        """Look at a file that only the evaluator reads."""
        if not file or os.path.realpath(file) == os.path.realpath(dataset.ann_file):
            return
        where = f'{phase}_evaluator: {file}'
        other = self._summary(file, where, use)
        names.check_categories(_Named(file, dataset.metainfo), other, where, self.findings)
        if set(other.images) != set(summary.images):
            self.findings.warn(where, f'lists other images than {dataset.ann_file}, the data set '
                                      'that is scored')

    def _summary(self, file: str, where: str, use: coco.Use) -> coco.Summary:
        """Look at an annotation file; at one without faults only once."""
        findings = Findings()

        def look(path: str) -> dict:
            summary = coco.check_file(coco.read_json(path), path, where, use, findings)
            return dict(summary=summary, findings=findings.as_json())

        entry = self.facts.read_one(f'{where}, {use}', look, file,
                                    keep=lambda entry: not findings.of(STOP))
        self.findings.add_all(from_json(entry['findings']))
        return coco.Summary(*entry['summary'])

    def _check_annotated(self, phase: str, summaries: List[coco.Summary]) -> None:
        """Note files without annotations, unless others have some: images may show nothing."""
        if summaries and self._labelled(phase) and not any(s.listed for s in summaries):
            for summary in summaries:
                self.findings.stop(f'{phase}_dataloader, CocoDataset',
                                   f'{summary.file} holds no annotations, which COCO files list '
                                   "under 'annotations'")


class _Named(NamedTuple):
    """What :func:`names.check_categories` needs of a data set."""

    ann_file: str
    metainfo: dict


def _data_sets_of(loader: dict) -> Iterator[dict]:
    """Yield the settings of the data sets in a loader that read files themselves."""
    for entry in dicts_of(loader.get('dataset')):
        if 'type' in entry and {'ann_file', 'data_root', 'data_prefix', 'img_prefix'} & set(entry):
            yield entry


class Leaf(NamedTuple):
    """A data set that was built, with what the survey needs of it."""

    phase: str
    dataset: Any
    where: str
    entries: List[Tuple[int, dict]]  # index and what is known of it
    labelled: bool


class Built:
    """The data sets of a runner as they were built."""

    def __init__(self, runner, findings: Findings, facts: FileFacts):
        self.runner, self.findings, self.facts = runner, findings, facts
        model = unwrapped(runner.model)
        self.model = getattr(model, 'student', model)  # of semi-supervised training

    def check(self, leaves: List[Leaf]) -> None:
        """Look at names, images, label maps and batches."""
        for leaf in leaves:
            _guarded(self.findings, leaf.where, partial(self._check_names, leaf))
        _guarded(self.findings, 'classes of several phases', partial(self._check_phases, leaves))
        headers = {}
        for leaf in sorted(leaves, key=lambda leaf: leaf.phase == 'train'):
            _guarded(self.findings, leaf.where, lambda leaf=leaf: headers.update(
                self._check_images(leaf)))
            if _reads_label_maps(leaf.dataset) and leaf.labelled:
                _guarded(self.findings, leaf.where, partial(
                    self._check_label_maps, leaf, headers))
        for phase in PHASES:
            _guarded(self.findings, f'{phase}_dataloader', partial(
                self._check_batches, phase, leaves, headers))
        _guarded(self.findings, 'images of several phases', partial(self._check_apart, leaves))
        self.facts.save()

    def leaves(self) -> Iterator[Leaf]:
        """Yield the data sets of the loops that are built."""
        for phase in PHASES:
            loop = built_loop(self.runner, phase)
            dataset = data_of(loop)
            if dataset is None:
                continue
            metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', ())
            labelled = phase == 'train' or any(map(needs_labels, metrics))
            yield from self.leaves_of(dataset, phase, labelled)

    def leaves_of(self, dataset, phase: str, labelled: bool) -> Iterator[Leaf]:
        """Yield a data set, or those in it if it wraps others."""
        for one in data_sets_in(dataset):
            where = f'{phase}_dataloader, {type(one).__name__}'
            entries: List[Tuple[int, dict]] = []
            _guarded(self.findings, f'{where}: its images',
                     lambda one=one, entries=entries: entries.extend(_entries(one)))
            yield Leaf(phase, one, where, entries, labelled)

    def _check_names(self, leaf: Leaf) -> None:
        classes = names.classes_of(leaf.dataset)
        if classes is None:
            self._check_labels(leaf, None)
            return
        if self._closed(leaf):
            names.check_heads(self.model, classes, leaf.where, self.findings)
        self._check_labels(leaf, classes)
        self.findings.looked_at.append(f'{leaf.phase}: names of {len(classes)} classes')

    def _closed(self, leaf: Leaf) -> bool:
        """Tell whether the heads have the classes of the data, not those of texts or things."""
        if names.learns_no_classes(self.model):
            return False
        return not (hasattr(self.model, 'language_model') or hasattr(self.model, 'text_encoder')
                    or 'thing_classes' in leaf.dataset.metainfo)

    def _check_labels(self, leaf: Leaf, classes: Optional[List[str]]) -> None:
        """Compare the labels of MMPreTrain's images with the classes and the head."""
        labels = [(entry['gt_label'], entry['img_path']) for _, entry in leaf.entries
                  if isinstance(entry.get('gt_label'), int)]
        if not labels:
            return
        sizes = [size for _, head in names.heads_of(self.model) for size in names.sizes_of(head)]
        fitting = min([*sizes, *([len(classes)] if classes else [])], default=None)
        for label, path in labels:
            if fitting is not None and label >= fitting:
                self.findings.stop(leaf.where, f'{{}} images with labels that no class has, 0 to '
                                               f'{fitting - 1} fit', f'{path}: {label}')
        if classes and leaf.phase == 'train' and len(labels) == len(leaf.dataset):
            occurring = {label for label, _ in labels}
            names.check_occurrence({name: index in occurring for index, name in
                                    enumerate(classes)}, classes, leaf.where, self.findings)

    def _check_phases(self, leaves: List[Leaf]) -> None:
        classes: Dict[str, List[List[str]]] = {}
        for leaf in leaves:
            found = names.classes_of(leaf.dataset)
            if found is not None and self._closed(leaf):
                classes.setdefault(leaf.phase, []).append(found)
        names.check_phases(classes, self.findings)

    def _check_images(self, leaf: Leaf) -> Dict[str, dict]:
        """Look at the images' headers; return those that were read, by path."""
        paths = [entry['img_path'] for _, entry in leaf.entries]
        if not paths or _is_elsewhere(leaf.dataset):
            return {}
        facts = self.facts.read('header', header, paths)
        turned = _honours_exif(leaf.dataset)
        missing = [path for path in paths if facts.get(path) == MISSING]
        for path in missing:
            self.findings.stop(leaf.where, '{} images are not there', f'{path} is not there',
                               'Check data_root, data_prefix and the suffixes of the files')
        self._check_unreadable(leaf, [path for path in dict.fromkeys(paths)
                                      if path in facts and facts[path] is None])
        known = {path: fact for path, fact in facts.items() if isinstance(fact, dict)}
        self._check_sizes(leaf, known, turned)
        self.findings.looked_at.append(
            f'{leaf.phase}: headers of {len(facts)} of {len(leaf.dataset)} images')
        return known

    def _check_unreadable(self, leaf: Leaf, paths: List[str]) -> None:
        load = next(iter(steps_of(leaf.dataset)), None)
        if type(load).__name__ != 'LoadImageFromFile':
            return
        for path in paths[:MOST_TRIED]:
            try:  # PIL does not know all formats
                load(dict(img_path=path))
            except Exception as error:  # of its decoder
                text = str(error).partition('; write the file anew')[0]
                if leaf.phase == 'train':
                    self.findings.warn(leaf.where, UNREADABLE, text)
                else:
                    self.findings.stop(leaf.where, '{} images cannot be read, and a score is that '
                                                   'of all images', text)

    def _check_sizes(self, leaf: Leaf, headers: Dict[str, dict], turned: bool) -> None:
        wrong: Dict[str, List[str]] = {}
        for _, entry in leaf.entries:
            fact, given = headers.get(entry['img_path']), (entry.get('width'), entry.get('height'))
            if fact is None or None in given:
                continue
            size = upright_size(fact) if turned else tuple(fact['size'])
            if given != size:
                kind = _kind_of_size(given, size, fact, turned)
                wrong.setdefault(kind, []).append(
                    f'{entry["img_path"]}: {given[0]} x {given[1]}, the file has '
                    f'{size[0]} x {size[1]}')
        for kind, examples in wrong.items():
            note = (self.findings.stop if len(examples) > FEW * len(headers)
                    else self.findings.warn)
            for example in examples:
                note(leaf.where, f'{{}} images {kind}', example)

    def _check_label_maps(self, leaf: Leaf, headers: Dict[str, dict]) -> None:
        load = next((step for step in _steps_below(getattr(leaf.dataset, 'pipeline', None))
                     if type(step).__name__ == 'LoadAnnotations'
                     and type(step).__module__.startswith('mmseg.')), None)
        pairs = [(entry['img_path'], entry['seg_map_path']) for _, entry in leaf.entries
                 if entry.get('seg_map_path')]
        head = next((head for path, head in names.heads_of(self.model)
                     if path == 'decode_head' and names.sizes_of(head)), None)
        if load is None or not pairs or head is None or _is_elsewhere(leaf.dataset):
            self.findings.not_looked_at.append(f'{leaf.where}: its label maps')
            return
        paths = [path for _, path in pairs]
        facts = self.facts.read('label map', label_map, paths)
        for path in paths:
            if facts.get(path) == MISSING:
                self.findings.stop(leaf.where, '{} label maps are not there',
                                   f'{path} is not there',
                                   'Check data_prefix and seg_map_suffix')
        complete = len(facts) == len(leaf.dataset)
        maps = LabelMaps(leaf.dataset, load, max(names.sizes_of(head)),
                         getattr(head, 'ignore_index', 255), leaf.where, self.findings)
        maps.check(headers, facts, pairs, _honours_exif(leaf.dataset), complete)
        self.findings.looked_at.append(
            f'{leaf.phase}: {len(facts)} of {len(leaf.dataset)} label maps'
            + ', a sample' * (not complete))

    def _check_batches(self, phase: str, leaves: List[Leaf], headers: Dict[str, dict]) -> None:
        loader = getattr(built_loop(self.runner, phase), 'dataloader', None)
        if loader is None:
            return
        where = f'{phase}_dataloader'
        if phase == 'train':
            batches.check_training(loader, self.model, where, self.findings)
            return
        for leaf in leaves:
            if leaf.dataset is loader.dataset:
                sizes = {index: tuple(headers[entry['img_path']]['size'])
                         for index, entry in leaf.entries if entry['img_path'] in headers}
                batches.check_sizes(loader, self.model, sizes, where, self.findings)

    def _check_apart(self, leaves: List[Leaf]) -> None:
        """Look for images of validation that are trained on, by their content."""
        trained: Dict[int, List[str]] = {}
        for leaf in leaves:
            if leaf.phase == 'train' and not _is_elsewhere(leaf.dataset):
                for path in (entry['img_path'] for _, entry in leaf.entries):
                    if os.path.isfile(path):
                        trained.setdefault(os.path.getsize(path), []).append(path)
        for leaf in leaves:
            if leaf.phase != 'train' and trained and not _is_elsewhere(leaf.dataset):
                self._compare_with(trained, leaf)

    def _compare_with(self, trained: Dict[int, List[str]], leaf: Leaf) -> None:
        step = max(1, len(leaf.entries) // MOST_COMPARED)
        paths = [entry['img_path'] for _, entry in leaf.entries[::step]]
        paths = [path for path in paths if os.path.isfile(path)]
        others = {path: trained.get(os.path.getsize(path), []) for path in paths}
        digests = self.facts.read('content', digest, [
            path for one, same in others.items() if same for path in (one, *same)])
        for path, same in others.items():
            twin = next((other for other in same if digests.get(path)
                         and digests.get(other) == digests[path]), None)
            if twin is not None:
                self.findings.warn(leaf.where, f'{{}} of {len(paths)} compared images are trained '
                                               'on', f'{path} is {twin}')


def _entries(dataset) -> Iterator[Tuple[int, dict]]:
    """Yield what a data set knows of its images, evenly spread over more than are looked at."""
    if not hasattr(dataset, 'get_data_info'):
        raise TypeError('it does not tell of them, having no get_data_info')
    step = -(-len(dataset) // MOST_ENTRIES) or 1
    for index in range(0, len(dataset), step):
        entry = dataset.get_data_info(index)
        if isinstance(entry, dict) and isinstance(entry.get('img_path'), str):
            yield index, {key: entry[key] for key in KEPT if key in entry}


def _steps_below(step) -> Iterator:
    """Yield a step and those in it: pipelines hold steps, and augmentations of tests pipelines."""
    yield step
    for inner in (*(getattr(step, 'transforms', None) or ()),
                  *(getattr(step, 'subroutines', None) or ())):
        yield from _steps_below(inner)


def _is_elsewhere(dataset) -> bool:
    return any(map(is_remote, (dataset, *steps_of(dataset))))


def _honours_exif(dataset) -> bool:
    """Tell whether the first step turns an image as its EXIF orientation says."""
    load = next(iter(steps_of(dataset)), None)
    return (getattr(load, 'color_type', 'color') in ('color', 'grayscale')
            and getattr(load, 'imdecode_backend', 'cv2') in (None, 'cv2', 'pillow'))


def _kind_of_size(given: tuple, size: tuple, fact: dict, turned: bool) -> str:
    if turned and given == tuple(fact['size']):
        return ('have the size of the annotations as they are stored, but an EXIF orientation '
                'turns them when they are read. Turn the files, or load with '
                "color_type='color_ignore_orientation'")
    if given == size[::-1]:
        return 'have width and height exchanged in the annotations'
    return 'are of another size than the annotations say'


def digest(path: str) -> Optional[str]:
    """Return a digest of a file's content; None if it cannot be read."""
    try:
        found = hashlib.blake2b(digest_size=16)
        with open(path, 'rb') as file:
            while chunk := file.read(2**20):
                found.update(chunk)
        return found.hexdigest()
    except OSError:
        return None
