"""Images that LoadBands reads: what becomes of them in a pipeline, and what their values are."""
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
from torch import nn

from mmvssd.engine.data.file_facts import MISSING, FileFacts
from mmvssd.engine.data.findings import Findings
from mmvssd.errors import ConfigError, DataError, UnreadableImageError
from mmvssd.phrases import counted, numbered, of_all, some

#: Steps of the hosts that change colours, or values from 0 to 255.
FOR_PHOTOGRAPHS = {
    'AdjustGamma', 'AutoContrast', 'Brightness', 'CLAHE', 'Color', 'ColorJitter', 'ColorTransform',
    'Contrast', 'Corrupt', 'Equalize', 'Invert', 'Lighting', 'PhotoMetricDistortion', 'Posterize',
    'RGB2Gray', 'RandomGrayscale', 'Rerange', 'Sharpness', 'Solarize', 'SolarizeAdd',
    'YOLOXHSVRandomAug'}
#: Channels that OpenCV averages over areas.
MOST_OF_AREA = 4
#: Files whose values are looked at.
MOST_READ = 60
#: What is said of files of other bands, or of values that are no numbers.
WRONG = '{} image[s] [is|are] not what LoadBands is set to read'


def loader_of(steps) -> Any:
    """Return the step that loads bands, if a pipeline begins with one; or None."""
    load = next(iter(steps), None)
    return load if type(load).__name__ == 'LoadBands' else None


def check_steps(steps, where: str, channels: Optional[int],
                preprocessor: Optional[nn.Module] = None) -> None:
    """Raise DataError if a step, or the model's preprocessor, does not suit a pipeline's images.

    Args:
        steps: Of the pipeline, and those in them; the first one loads bands.
        where: The setting that names it.
        channels: Of the images.
        preprocessor: The model's; it may have none.
    """
    steps = list(steps)
    load = loader_of(steps)
    names = [name for step in steps for name in _names(step)]
    wrong = [name for name in names if name in FOR_PHOTOGRAPHS]
    if wrong:
        raise DataError(f'{where}: the pipeline loads bands, and {some(sorted(set(wrong)))} is for '
                        'the colours of photographs; leave it out')
    for step in steps:
        _check_resizing(step, where, channels)
    if load.mean is not None and 'Normalize' in names:
        raise DataError(f'{where}: images would be normalized twice, by mean and std of LoadBands '
                        'and by Normalize; leave one of them out')
    _check_preprocessor(load, where, channels, preprocessor)


def _names(step) -> Iterator[str]:
    """Yield the names of a step and of those that it draws from."""
    yield type(step).__name__
    waiting = [getattr(step, name, None) for name in ('policies', 'aug_space')]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            kind = entry.get('type')
            if kind is not None:
                yield str(getattr(kind, '__name__', kind)).rpartition('.')[2]
            waiting += entry.values()
        elif isinstance(entry, (list, tuple)):
            waiting += entry


def _check_resizing(step, where: str, channels: Optional[int]) -> None:
    name = type(step).__name__
    if getattr(step, 'backend', None) == 'pillow':
        raise DataError(f"{where}: {name} has backend='pillow', which resizes bytes of photographs "
                        "only; set backend='cv2'")
    if getattr(step, 'interpolation', None) == 'area' and (channels or 0) > MOST_OF_AREA:
        raise DataError(f"{where}: {name} has interpolation='area', which OpenCV has for at most "
                        f"{MOST_OF_AREA} channels, and the images have {channels}; set 'bilinear'")


def _check_preprocessor(load, where: str, channels: Optional[int],
                        preprocessor: Optional[nn.Module]) -> None:
    mean = getattr(preprocessor, 'mean', None)
    if mean is None:
        return
    advice = ('set mean=None and std=None of the data_preprocessor (and bgr_to_rgb or to_rgb '
              'to False)')
    if load.mean is not None:
        raise DataError(f'{where}: images would be normalized twice, by LoadBands and by the '
                        f'data_preprocessor: {advice}')
    if channels and mean.numel() not in (1, channels):
        raise DataError(f'{where}: the images have {counted(channels, "band")}, mean of the '
                        f'data_preprocessor has {counted(mean.numel(), "number")}. Give mean and '
                        f'std to LoadBands, and {advice}')


def check_header(load, path: str, channels: Optional[int]) -> None:
    """Raise DataError if a file has other bands than LoadBands, or the model, takes.

    A file that cannot be read passes: a training leaves it out.
    """
    try:
        found = load.header(path)
    except UnreadableImageError:
        return
    given = load.channels or found.bands
    if channels and given != channels:
        raise DataError(f'{path}: LoadBands gives {counted(given, "band")} of it, the model takes '
                        f'{channels}. Set in_channels={given} of the backbone, or bands of '
                        'LoadBands')


def headers(load, paths: List[str], files: FileFacts) -> Dict[str, Any]:
    """Return facts of files by path, as :func:`~mmvssd.engine.data.file_facts.header` does."""
    def read(path: str) -> Optional[dict]:
        try:
            found = load.header(path)
        except UnreadableImageError:
            return None
        except ConfigError as error:  # no fact of the file
            raise DataError(str(error)) from error
        except DataError as error:
            return dict(wrong=str(error))
        return dict(size=[found.width, found.height], mode=found.dtype, orientation=1)

    return files.read(f'bands {load!r}', read, paths)


def check_values(load, paths: List[str], where: str, phase: str, files: FileFacts,
                 findings: Findings) -> None:
    """Look at the values of some files: real numbers everywhere, no band of one value only.

    Args:
        load: The step that loads them.
        paths: The files.
        where: The setting that names their data set.
        phase: What it is for.
        files: Facts of files; their time is not exceeded.
        findings: Where faults are noted.
    """
    paths = paths[::max(1, -(-len(paths) // MOST_READ))]

    def read(path: str) -> dict:
        try:
            image = load(dict(img_path=path))['img']
        except UnreadableImageError:
            return {}
        except ConfigError as error:  # no fact of the file
            raise DataError(str(error)) from error
        except DataError as error:
            return dict(wrong=str(error))
        flat = image.reshape(-1, image.shape[2])
        return dict(low=flat.min(0).tolist(), high=flat.max(0).tolist())

    facts = {path: fact for path, fact in files.read(f'values {load!r}', read, paths).items()
             if fact != MISSING}
    for fact in facts.values():
        if 'wrong' in fact:
            findings.stop(where, WRONG, fact['wrong'])
    known = [fact for fact in facts.values() if 'low' in fact]
    if not known:
        return
    low = np.min([fact['low'] for fact in known], 0)
    high = np.max([fact['high'] for fact in known], 0)
    for place in np.flatnonzero(low == high):
        band = load.bands[place] if load.bands else place
        findings.warn(where, f'band {band} has one value throughout '
                             f'{of_all(len(known), len(known), "image")} that '
                             + numbered('[was|were] looked at', len(known)),
                      advice='It tells nothing: leave it out of bands')
    findings.looked_at.append(f'{phase}: values of {counted(len(known), "image")}')
