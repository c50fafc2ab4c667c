"""Names of classes: whether the recipe, the files, the phases and the heads agree on them."""
import os
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence

from torch import nn

from mmvssd.engine.data.coco import Summary
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.heads import heads_of, sizes_of
from mmvssd.phrases import counted, first_and_more, numbered, similar, some

SET_BOTH = 'Set metainfo.classes of the data sets and num_classes of the heads to the same'
ORDER = ("MMDetection numbers classes in the order of the file's categories, whatever the order of "
         'metainfo.classes. Set ')


def classes_of(dataset) -> Optional[List[str]]:
    """Return the names of a data set's classes; None if it has none, or is not known to."""
    metainfo = getattr(dataset, 'metainfo', None)
    classes = metainfo.get('classes') if isinstance(metainfo, dict) else None
    return list(classes) if isinstance(classes, (list, tuple)) and classes else None


def check_setting(classes: Any, where: str, findings: Findings) -> None:
    """Look at ``metainfo.classes`` by itself; a text may be a file that lists them."""
    if isinstance(classes, str) and not os.path.isfile(classes):
        findings.stop(where, f'metainfo.classes is the text {classes!r}, expected a tuple of names',
                      advice=f'One class is written ({classes!r}, )')
        return
    if not isinstance(classes, (list, tuple)):
        return
    if doubled(classes):  # ImageNet has two cranes
        findings.warn(where, f'metainfo.classes has {some(doubled(classes))} more than once')
    stripped = [name for name in classes if isinstance(name, str) and name != name.strip()]
    if stripped:
        findings.warn(where, f'metainfo.classes has names with blanks at an end: {stripped}')


def check_categories(dataset, summary: Summary, where: str, findings: Findings) -> None:
    """Compare the recipe's classes with a COCO file's categories.

    Args:
        dataset: A data set of MMDetection's CocoDataset, which may be lazy.
        summary: Of its file.
        where: The setting that names it, with the file.
        findings: Where faults and doubts are noted.
    """
    classes = classes_of(dataset)
    names = [name for _, name in summary.categories]
    if classes is None or not names:
        return
    if doubled(classes):
        findings.stop(where, f'metainfo.classes has {some(doubled(classes))} more than once, and '
                             'categories are found by their names', advice=SET_BOTH)
        return
    kept = [name for name in names if name in set(classes)]  # in the order of their labels
    missing = [name for name in classes if name not in set(names)]
    if not kept:
        findings.stop(where, "has no category of the recipe's: it has the categories "
                             f'{some(names)}; its classes are {some(classes)}',
                      advice=SET_BOTH)
        return
    moved = [(name, label) for name, label in zip(kept, classes) if name != label]
    if missing:
        close = ''.join(f'; {name} may be meant to be {other}' for name in missing
                        for other in similar(name, names, most=1))
        what = numbered(f'{{}} of {counted(len(classes), "class")} [is no category|are no '
                        'categories] of the file: ', len(missing)) + some(missing) + close
        if moved:
            findings.stop(where, f'{what}. This moves the labels of '
                                 f'{counted(len(moved), "other")}: boxes of {moved[0][0]} would be '
                                 f'trained and named as {moved[0][1]}', advice=SET_BOTH)
        else:
            findings.warn(where, what)
    elif moved:
        findings.stop(where, numbered('{} class[es] [stands|stand] in another order than the '
                                      'categories: ', len(moved)) +
                             f'boxes of {moved[0][0]} would be named {moved[0][1]}',
                      advice=f'{ORDER}classes=({", ".join(map(repr, kept[:len(classes)]))})')


def check_occurrence(counts: Dict[str, int], classes: Sequence[str], where: str,
                     findings: Findings) -> None:
    """Note classes that never occur."""
    never = [name for name in classes if not counts.get(name)]
    if never and len(never) < len(classes):
        findings.warn(where, numbered(f'{{}} of {counted(len(classes), "class")} never '
                                      '[occurs|occur]: ', len(never)) + first_and_more(never))


def check_phases(classes: Dict[str, List[List[str]]], findings: Findings) -> None:
    """Compare the classes of training with those of validation and testing.

    Args:
        classes: By phase, the names of each data set's classes.
        findings: Where faults and doubts are noted.
    """
    known = [(phase, names) for phase, lists in classes.items() for names in lists]
    for phase, names in known[1:]:
        first, reference = known[0]
        if names == reference:
            continue
        where = f'{phase}_dataloader'
        moved = [name for name in names
                 if name in reference and reference.index(name) != names.index(name)]
        apart = [name for name in (*reference, *names)
                 if (name in reference) != (name in names)]
        if moved:
            findings.stop(where, f'{moved[0]} is class {names.index(moved[0])}, and in the data of '
                                 f'{first} class {reference.index(moved[0])}; '
                                 + numbered('{} class[es] [is|are] moved so, and ', len(moved))
                                 + f'only one of both has {some(apart) or "none"}',
                          advice='Give all phases the same classes in the same order')
        elif len(names) > len(reference):
            findings.stop(where, f'has {counted(len(names), "class")}, the data of {first} have '
                                 f'{len(reference)}; only one of both has {some(apart)}')
        else:
            findings.warn(where, f'only one of these data and those of {first} has the classes '
                                 f'{some(apart)}')


def check_heads(model: nn.Module, classes: Sequence[str], where: str, findings: Findings) -> None:
    """Compare ``num_classes`` of a model's heads with the number of a data set's classes."""
    for path, head in heads_of(model):
        sizes = sizes_of(head)
        # masks of any class; edges, as STDC's auxiliary head learns them
        if ('mask' in path and 1 in sizes) or hasattr(head, 'boundary_threshold'):
            continue
        if sizes and len(classes) not in sizes:
            findings.stop(where, f'the data have {counted(len(classes), "class")}, model.{path} '
                                 f'has num_classes={head.num_classes}', advice=SET_BOTH)


def check_top_k(metrics: Sequence, model: nn.Module, where: str, findings: Findings) -> None:
    """Note accuracies among more classes than there are; MMPreTrain raises after the first epoch.

    Args:
        metrics: Of an evaluator.
        model: Whose heads have the classes.
        where: The setting of the evaluator.
        findings: Where faults are noted.
    """
    sizes = [size for _, head in heads_of(model) for size in sizes_of(head)]
    for metric in metrics:
        top = getattr(metric, 'topk', None)
        if type(metric).__name__ != 'Accuracy' or not isinstance(top, tuple) or not sizes:
            continue
        if max(top) > min(sizes):
            findings.stop(where, f'topk={top}, and the model has {counted(min(sizes), "class")}',
                          advice='Set val_evaluator = dict(topk=(1, )) and test_evaluator = '
                                 'val_evaluator')


def doubled(names: Sequence) -> List[str]:
    """Return the names that occur more than once."""
    return sorted(str(name) for name, count in Counter(map(str, names)).items() if count > 1)
