"""Data sets that were built, each with what the survey needs of it."""
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from mmvssd.engine.data.checks import data_of, data_sets_in, needs_labels
from mmvssd.engine.data.findings import Findings
from mmvssd.host_internals import built_loop

PHASES = ('train', 'val', 'test')
#: Entries of a data set that are looked at, evenly spread over more.
MOST_ENTRIES = 50_000
#: What is kept of an entry.
KEPT = ('img_path', 'seg_map_path', 'width', 'height', 'gt_label')


class Leaf(NamedTuple):
    """A data set that was built, with what the survey needs of it."""

    phase: str
    dataset: Any
    where: str
    entries: List[Tuple[int, dict]]  # index and what is known of it
    labelled: bool


def loaders_of(runner) -> Dict[str, Any]:
    """Return the data loaders of the loops that are built, by phase."""
    loops = {phase: built_loop(runner, phase) for phase in PHASES}
    return {phase: getattr(loop, 'dataloader', None) for phase, loop in loops.items()}


def leaves_of(runner, findings: Findings) -> Iterator[Leaf]:
    """Yield the data sets of the loops that are built."""
    for phase in PHASES:
        loop = built_loop(runner, phase)
        dataset = data_of(loop)
        if dataset is None:
            continue
        metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', ())
        labelled = phase == 'train' or any(map(needs_labels, metrics))
        yield from leaves_in(dataset, phase, labelled, findings)


def leaves_in(dataset, phase: str, labelled: bool, findings: Findings) -> Iterator[Leaf]:
    """Yield a data set, or those in it if it wraps others."""
    for one in data_sets_in(dataset):
        where = f'{phase}_dataloader, {type(one).__name__}'
        entries: List[Tuple[int, dict]] = []
        findings.look_at(f'{where}: its images',
                         lambda one=one, entries=entries: entries.extend(_entries(one)))
        yield Leaf(phase, one, where, entries, labelled)


def _entries(dataset) -> Iterator[Tuple[int, dict]]:
    """Yield what a data set knows of its images, evenly spread over more than are looked at."""
    if not hasattr(dataset, 'get_data_info'):
        raise TypeError('it does not tell of them, having no get_data_info')
    named = len(dataset) == 0
    step = -(-len(dataset) // MOST_ENTRIES) or 1
    for index in range(0, len(dataset), step):
        entry = dataset.get_data_info(index)
        if isinstance(entry, dict) and isinstance(entry.get('img_path'), str):
            named = True
            yield index, {key: entry[key] for key in KEPT if key in entry}
    if not named:  # but arrays, or videos
        raise TypeError('it names no files of images')
