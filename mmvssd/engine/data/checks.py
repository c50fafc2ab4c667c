"""Whether the data of a recipe are there, and what is wrong if they cannot be read."""
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, Tuple, TypeGuard, Union

from mmengine.config import Config
from mmengine.evaluator import DumpResults

from mmvssd.engine.data import bands
from mmvssd.errors import DataError
from mmvssd.phrases import counted, some

PROBED = 100  # entries of a data set whose files are looked at

WAYS_OUT = ('The sample recipes need tools/dataset_tools/make_sample_data.py to be run first; for '
            'data elsewhere make a link at that path, or set --cfg-options '
            '{train,val,test}_dataloader.dataset.data_root=FOLDER and '
            '{val,test}_evaluator.ann_file=FILE')

CHANNELS_ADVICE = ("LoadImageFromFile with color_type='color', its default, gives every image "
                   "three; 'unchanged' and 'grayscale' do not. mmvssd.LoadBands gives "
                   "those of its bands, or all of the file's")


def check_data(cfg: Config, *phases: str) -> None:
    """Raise DataError unless the data sets and evaluators of ``phases`` find their files."""
    for phase in phases:
        for what, fault in absent_data(cfg, phase):
            raise DataError(f'{what}: {fault}')


def absent_data(cfg: Config, phase: str) -> Iterator[Tuple[str, str]]:
    """Yield the settings of a phase that name no file, or an empty one, each with the fault.

    Of what lies below a folder that is not there, only the folder is told of.
    """
    absent = []
    for what, path in _data_paths(cfg, phase):
        if any(folder in Path(path).parents for folder in absent):
            continue
        if not Path(path).exists():
            absent.append(Path(path))
            yield what, f'{path} is not there (seen from {Path.cwd()}). {WAYS_OUT}'
        elif Path(path).is_file() and not Path(path).stat().st_size:
            yield what, f'{path} is empty (0 bytes); write the annotations anew'


def _data_paths(cfg: Config, phase: str) -> Iterator[Tuple[str, str]]:
    """Yield local files and folders that a phase reads, each with the setting that names it."""
    for dataset in dicts_of(cfg.get(f'{phase}_dataloader')):
        root = dataset.get('data_root')
        if is_local(root) and not any(map(is_remote, dicts_of(dataset))):
            name = f'{phase}_dataloader, {dataset.get("type", "data set")}'
            yield f'{name}, data_root', root
            if is_local(dataset.get('ann_file')):
                yield f'{name}, ann_file', str(Path(root) / dataset['ann_file'])
    for metric in dicts_of(cfg.get(f'{phase}_evaluator')):
        if is_local(metric.get('ann_file')) and not is_remote(metric):
            yield f'{phase}_evaluator, ann_file', metric['ann_file']


def is_remote(reader: Union[dict, object]) -> bool:
    """Tell whether what reads files takes them from elsewhere, whatever their paths look like."""
    arguments = (reader.get('backend_args') if isinstance(reader, dict)
                 else getattr(reader, 'backend_args', None))
    return arguments is not None and arguments.get('backend', 'local') != 'local'


def needs_labels(metric: Union[dict, object]) -> bool:
    """Tell whether a metric, or a dict of a config that names one, compares with labels."""
    if not isinstance(metric, dict):
        return not (getattr(metric, 'format_only', False) or isinstance(metric, DumpResults))
    kind = metric.get('type')
    name = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
    return (kind is not None and 'metrics' not in metric and not metric.get('format_only')
            and not name.startswith('Dump'))


def check_dataset(dataset, phase: str, channels: Optional[int] = None, *,
                  labelled: bool = True) -> None:
    """Raise DataError if a data set that was built cannot serve.

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
    """Raise DataError at a COCO file of other categories, of which no annotation is read."""
    if getattr(dataset, 'cat_ids', None) == [] and dataset.metainfo.get('classes'):
        raise DataError(f'{_name(dataset, phase)}: ' + _other_classes(
            f"{dataset.ann_file} has no category of the recipe's", dataset.metainfo['classes']))


def _check_annotations(datasets: Sequence, phase: str) -> None:
    """Raise DataError if no data set has annotations; a few may show nothing, or get labels."""
    coco = [dataset for dataset in datasets if hasattr(dataset, 'cat_img_map')]
    if coco and not any(any(dataset.cat_img_map.values()) for dataset in coco):
        files = ', '.join(str(dataset.ann_file) for dataset in coco)
        raise DataError(f'{_name(coco[0], phase)}: {files} holds no annotations')


def _check_files(dataset, phase: str, labelled: bool) -> None:
    steps = steps_of(dataset)
    if any(map(is_remote, (dataset, *steps))):
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
    """Raise DataError at images, not loaded as colour ones, with other channels than a model's."""
    load = bands.loader_of(steps_of(dataset))
    if load is not None:
        for entry in _probed(dataset):
            bands.check_header(load, entry['img_path'], channels)
        return
    for load in steps_of(dataset)[:1]:
        if getattr(load, 'color_type', 'color') == 'color':
            continue
        for entry in _probed(dataset):
            shape = load(dict(img_path=entry['img_path']))['img'].shape
            found = shape[2] if len(shape) == 3 else 1
            if found != channels and _channels_in_the_end(dataset, entry) != channels:
                raise DataError(f'{entry["img_path"]}: the image has {counted(found, "channel")}, '
                                f'the model takes {channels}. {CHANNELS_ADVICE}')


def check_band_steps(dataset, phase: str, channels: Optional[int], preprocessor) -> None:
    """Raise DataError if what follows LoadBands does not suit its images.

    Args:
        dataset: As the hosts build it, also one that wraps others.
        phase: What it is for, in the error.
        channels: Channels of the images that the model takes; None if that is not known.
        preprocessor: The model's, or None.
    """
    for leaf in data_sets_in(dataset):
        if bands.loader_of(steps_of(leaf)) is not None:
            steps = [inner for step in steps_of(leaf) for inner in steps_below(step)]
            bands.check_steps(steps, _name(leaf, phase), channels, preprocessor)


def _channels_in_the_end(dataset, entry: dict) -> Optional[int]:
    """Return the channels that the whole pipeline makes of an image; None if it fails at it."""
    try:
        return len(dataset.pipeline(entry)['inputs'])
    except Exception:  # of whatever step; the caller says what is wrong
        return None


def steps_of(dataset) -> Sequence:
    """Return the steps of a data set's pipeline."""
    return getattr(getattr(dataset, 'pipeline', None), 'transforms', [])


def steps_below(step) -> Iterator:
    """Yield a step and those in it: pipelines hold steps, and augmentations of tests pipelines."""
    yield step
    for inner in (*(getattr(step, 'transforms', None) or ()),
                  *(getattr(step, 'subroutines', None) or ())):
        yield from steps_below(inner)


def data_of(loop):
    """Return the data set of a loop; None without a loop, or if one of the user's own hides it."""
    return getattr(getattr(loop, 'dataloader', None), 'dataset', None)


def data_sets_in(dataset) -> Iterator:
    """Yield a data set, or those in it if it wraps others."""
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if inner is None:
        yield dataset
    for one in inner if isinstance(inner, (list, tuple)) else [inner] * (inner is not None):
        yield from data_sets_in(one)


def _probed(dataset) -> List[dict]:
    """Return some entries, evenly spread; looking for all files of ImageNet would take minutes."""
    if not hasattr(dataset, 'get_data_info'):
        return []
    step = max(1, len(dataset) // PROBED)
    entries = (dataset.get_data_info(index) for index in range(0, len(dataset), step))
    return [entry for entry in entries if isinstance(entry, dict)]


def _other_classes(what: str, classes: Sequence[str]) -> str:
    return (f'{what}; its classes are {some(classes)}. Set metainfo.classes of the data sets, and '
            "num_classes of the heads, to the file's")


def dicts_of(node) -> Iterator[dict]:
    """Yield all dicts of a config's branch, also those of data sets that wrap others."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from dicts_of(value)


def is_local(path: Any) -> TypeGuard[str]:
    """Tell whether a setting names a file or folder of this machine."""
    return isinstance(path, str) and bool(path) and '://' not in path
