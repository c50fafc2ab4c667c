"""Whether the data of a recipe are there, and what is wrong where they cannot be read."""
import inspect
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmvssd.errors import DataError

SHOWN = 5  # names listed in an error
PROBED = 100  # entries of a data set whose files are looked at

WAYS_OUT = ('The sample recipes need tools/dataset_tools/make_sample_data.py to be run first; for '
            'data elsewhere make a link at that path, or set --cfg-options '
            '{train,val,test}_dataloader.dataset.data_root=FOLDER and '
            '{val,test}_evaluator.ann_file=FILE')

CHANNELS_ADVICE = ("LoadImageFromFile with color_type='color', its default, gives every image "
                   "three; 'unchanged' and 'grayscale' do not")


def check_data(cfg: Config, *phases: str) -> None:
    """Raise DataError unless the data sets and evaluators of ``phases`` find their files."""
    for phase in phases:
        for what, path in _data_paths(cfg, phase):
            if not Path(path).exists():
                raise DataError(
                    f'{what}: {path} is not there (seen from {Path.cwd()}). {WAYS_OUT}')
            if Path(path).is_file() and not Path(path).stat().st_size:
                raise DataError(f'{what}: {path} is empty (0 bytes); write the annotations anew')


def _data_paths(cfg: Config, phase: str) -> Iterator[Tuple[str, str]]:
    """Local files and folders that a phase reads, each with the setting that names it."""
    for dataset in dicts_of(cfg.get(f'{phase}_dataloader')):
        root = dataset.get('data_root')
        if is_local(root) and not any(map(_is_remote, dicts_of(dataset))):
            name = f'{phase}_dataloader, {dataset.get("type", "data set")}'
            yield f'{name}, data_root', root
            if is_local(dataset.get('ann_file')):
                yield f'{name}, ann_file', str(Path(root) / dataset['ann_file'])
    for metric in dicts_of(cfg.get(f'{phase}_evaluator')):
        if is_local(metric.get('ann_file')) and not _is_remote(metric):
            yield f'{phase}_evaluator, ann_file', metric['ann_file']


def _is_remote(reader: Union[dict, object]) -> bool:
    """Whether what reads files takes them from elsewhere, whatever their paths look like."""
    arguments = (reader.get('backend_args') if isinstance(reader, dict)
                 else getattr(reader, 'backend_args', None))
    return bool(arguments) and arguments.get('backend', 'local') != 'local'


@contextmanager
def explaining(cfg: Config, phase: str) -> Iterator[None]:
    """Turn what the hosts raise at empty data into a DataError that says so.

    They find out late, with an error of NumPy or of the JSON reader. The files are looked into
    only once something went wrong, for reading COCO's takes a while; other errors pass.
    """
    try:
        yield
    except Exception as error:
        for dataset in dicts_of(cfg.get(f'{phase}_dataloader')):
            problem = _emptiness(dataset, labelled=phase != 'test')
            if problem:
                name = f'{phase}_dataloader, {dataset.get("type", "data set")}'
                raise DataError(f'{name}: {problem}') from error
        raise


def _emptiness(dataset: dict, labelled: bool) -> Optional[str]:
    """What leaves a data set without images, None where that is not seen from its files."""
    root = Path(dataset.get('data_root') or '')
    file = root / dataset.get('ann_file', '') if is_local(dataset.get('ann_file')) else None
    if file is not None and file.is_file():
        if file.suffix == '.json':
            return _coco_emptiness(file, (dataset.get('metainfo') or {}).get('classes'), labelled)
        lines = file.read_text(errors='replace').splitlines()
        return None if any(map(str.strip, lines)) else f'{file} lists no images'
    prefix = dataset.get('data_prefix')
    suffix = ''
    if isinstance(prefix, dict):  # MMSegmentation lists folders, by the suffix of the images
        prefix, suffix = prefix.get('img_path'), _image_suffix(dataset)
    if not is_local(prefix) or any(map(Path.is_file, (root / prefix).rglob(f'*{suffix}'))):
        return None
    return f'{root / prefix} holds no image' + f' with the suffix {suffix}' * bool(suffix)


def _image_suffix(dataset: dict) -> str:
    """The suffix that the data set lists images by: the recipe's, else the class's own."""
    if 'img_suffix' in dataset:
        return dataset['img_suffix']
    with DATASETS.switch_scope_and_registry(None) as registry:  # of the recipe's default scope
        kind = registry.get(dataset['type'])
    parameters = inspect.signature(kind).parameters if kind else {}
    return parameters['img_suffix'].default if 'img_suffix' in parameters else ''


def _coco_emptiness(file: Path, classes: Optional[Sequence[str]], labelled: bool) -> Optional[str]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        return f'{file} is not valid JSON, perhaps cut short ({error})'
    if isinstance(content, dict) and 'data_list' in content:  # MMEngine's own form
        return None
    for key in ('images', 'categories', *(['annotations'] if labelled else [])):
        if not isinstance(content, dict) or not content.get(key):
            return f'{file} holds no {key}, which COCO files list under {key!r}'
    names = [category.get('name') for category in content['categories']]
    if classes and not set(classes) & set(names):
        return _other_classes(f'{file} has the categories {_some(names)}', classes)
    return None


def check_dataset(dataset, phase: str, channels: Optional[int] = None, *,
                  labelled: bool = True) -> None:
    """Raise DataError where a data set that was built cannot serve.

    Args:
        dataset: As the hosts build it, also one that wraps others.
        phase: What it is for, in the error.
        channels: Channels of the images that the model takes; None checks none.
        labelled: Whether it needs annotations.
    """
    leaves = list(data_sets_in(dataset))
    for leaf in leaves:
        _check_categories(leaf, phase)
    if labelled:
        _check_annotations(leaves, phase)
    for leaf in leaves:
        _check_files(leaf, phase, labelled)
        if channels:
            _check_channels(leaf, channels)


def _name(dataset, phase: str) -> str:
    return f'{phase}_dataloader, {type(dataset).__name__}'


def _check_categories(dataset, phase: str) -> None:
    """A COCO file of other categories gives images without annotations."""
    if getattr(dataset, 'cat_ids', None) == [] and dataset.metainfo.get('classes'):
        raise DataError(f'{_name(dataset, phase)}: ' + _other_classes(
            f"{dataset.ann_file} has no category of the recipe's", dataset.metainfo['classes']))


def _check_annotations(datasets: Sequence, phase: str) -> None:
    """One of several may well be without: images of nothing, or to be labelled by the model."""
    coco = [dataset for dataset in datasets if hasattr(dataset, 'cat_img_map')]
    if coco and not any(any(dataset.cat_img_map.values()) for dataset in coco):
        files = ', '.join(str(dataset.ann_file) for dataset in coco)
        raise DataError(f'{_name(coco[0], phase)}: {files} holds no annotations')


def _check_files(dataset, phase: str, labelled: bool) -> None:
    steps = _steps(dataset)
    if any(map(_is_remote, (dataset, *steps))):
        return
    keys = ['img_path']
    # a config may inherit a folder of label maps and read none
    if labelled and any(getattr(step, 'with_seg', False) for step in steps):
        keys.append('seg_map_path')
    for path in (entry.get(key) for entry in _probed(dataset) for key in keys):
        if is_local(path) and not Path(path).is_file():
            raise DataError(f'{_name(dataset, phase)}: {path} is not there (seen from '
                            f'{Path.cwd()}); check data_root, data_prefix and the suffixes of '
                            'the files')


def _check_channels(dataset, channels: int) -> None:
    """Where images are not loaded as colour ones, a later step may fail at them, and not say so."""
    for load in _steps(dataset)[:1]:
        if getattr(load, 'color_type', 'color') == 'color':
            continue
        for entry in _probed(dataset):
            shape = load(dict(img_path=entry['img_path']))['img'].shape
            found = shape[2] if len(shape) == 3 else 1
            if found != channels and _channels_in_the_end(dataset, entry) != channels:
                raise DataError(f'{entry["img_path"]}: the image has {found} channels, the model '
                                f'takes {channels}. {CHANNELS_ADVICE}')


def _channels_in_the_end(dataset, entry: dict) -> Optional[int]:
    """Channels that the whole pipeline makes of an image; None where it fails at it."""
    try:
        return len(dataset.pipeline(entry)['inputs'])
    except Exception:  # of whatever step; the caller says what is wrong
        return None


def _steps(dataset) -> Sequence:
    return getattr(getattr(dataset, 'pipeline', None), 'transforms', [])


def data_of(loop):
    """Return the data set of a loop; None without a loop, or if one of the user's own hides it."""
    return getattr(getattr(loop, 'dataloader', None), 'dataset', None)


def data_sets_in(dataset) -> Iterator:
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if inner is None:
        yield dataset
    for one in inner if isinstance(inner, (list, tuple)) else [inner] * (inner is not None):
        yield from data_sets_in(one)


def _probed(dataset) -> List[dict]:
    """Some entries, evenly spread: looking for all of ImageNet's files would take minutes."""
    if not hasattr(dataset, 'get_data_info'):
        return []
    step = max(1, len(dataset) // PROBED)
    entries = (dataset.get_data_info(index) for index in range(0, len(dataset), step))
    return [entry for entry in entries if isinstance(entry, dict)]


def _other_classes(what: str, classes: Sequence[str]) -> str:
    return (f'{what}; its classes are {_some(classes)}. Set metainfo.classes of the data sets, and '
            "num_classes of the heads, to the file's")


def _some(names: Sequence) -> str:
    return ', '.join(map(str, names[:SHOWN])) + ' ...' * (len(names) > SHOWN)


def dicts_of(node) -> Iterator[dict]:
    """All dicts of a config's branch, also those of data sets that wrap others."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from dicts_of(value)


def is_local(path: Optional[str]) -> bool:
    """Whether a setting names a file or folder of this machine."""
    return isinstance(path, str) and bool(path) and '://' not in path
