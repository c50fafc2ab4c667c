"""Lists of images and labels, as MMPreTrain's data sets read them."""
import os
from collections import Counter, defaultdict
from typing import Dict, List, Optional, Tuple

from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.class_folders import SPLITS
from mmvssd.engine.data.listings.lines import BESIDES_PATHS, besides, lines_of
from mmvssd.phrases import counted, short

#: Share of labels that contradict their folders from which on it is no slip.
MOST = 0.5
#: Share of a folder's images that are of one class if the folder stands for a class.
ONE_CLASS = 0.9
#: Letters of a folder's name up to which it may number a part of the data instead.
LONGEST_NUMBER = 2
FORM = 'A line is PATH LABEL: a path, one blank, a whole number from 0 on'
BESIDES_LABELS = {
    **BESIDES_PATHS,
    r'.*\.\w+( +\d+)+$': 'with several labels, of which all but the last count as part of the path',
}


def check_class_list(dataset, where: str, findings: Findings) -> None:
    """Look at a list of images and labels (MMPreTrain).

    Args:
        dataset: A data set of MMPreTrain's CustomDataset with ``ann_file``.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
    """
    file = dataset.ann_file
    where = f'{where}: {file}'
    labels: Dict[str, Tuple[int, int]] = {}
    for number, line in lines_of(file, where, findings):
        path, label = _entry(line)
        example = f'line {number}: {short(line)}'
        if label is None:
            findings.stop(where, f'{{}} line[s] {_problem(line)}', example, FORM)
        elif label < 0:
            findings.stop(where, '{} label[s] below 0', example, FORM)
        elif path in labels and labels[path][1] != label:
            findings.stop(where, '{} image[s] with several labels',
                          f'lines {labels[path][0]} and {number}: {path}')
        elif path in labels:
            findings.warn(where, '{} line[s] of [an image|images] that [is|are] listed already',
                          f'lines {labels[path][0]} and {number}: {path}')
        if label is not None:
            problem = besides(path, os.path.join(dataset.img_prefix or '', path), BESIDES_LABELS)
            if problem:
                findings.stop(where, f'{{}} line[s] {problem}', example, FORM)
            labels.setdefault(path, (number, label))
    if len({label for _, label in labels.values()}) == 1 and len(labels) > 1:
        findings.warn(where, f'all {len(labels)} images have one label')
    classes = dataset.metainfo.get('classes')
    if isinstance(classes, (list, tuple)):
        _compare_labels(list(classes), labels, where, findings)


def listed_images(dataset) -> List[dict]:
    """Return the images of a list, each with its label, of the lines that name both.

    Args:
        dataset: A data set of MMPreTrain's CustomDataset with ``ann_file``.
    """
    entries = (_entry(line) for _, line in lines_of(dataset.ann_file, '', Findings()))
    return [dict(img_path=os.path.join(dataset.img_prefix or '', path), gt_label=label)
            for path, label in entries if label is not None and label >= 0]


def _compare_labels(classes: List[str], labels: Dict[str, Tuple[int, int]], where: str,
                    findings: Findings) -> None:
    """Compare the labels of images with the folders of a class's name that they lie in.

    Args:
        classes: Names of the classes by label.
        labels: By path, the line and the label.
        where: The setting and the file.
        findings: Where faults and doubts are noted.
    """
    names = set(classes) - SPLITS  # a class may be called as a split is
    seen, wrong = 0, []
    labels_in: Dict[int, Dict[str, Counter]] = defaultdict(lambda: defaultdict(Counter))
    for path, (number, label) in labels.items():
        folders = {depth: name for depth, name in enumerate(path.split('/')[:-1]) if name in names}
        if not folders or not 0 <= label < len(classes):
            continue
        seen += 1
        for depth, name in folders.items():
            labels_in[depth][name][label] += 1
        if classes[label] not in folders.values():
            wrong.append(f'line {number}: {path} {label}, which is {classes[label]}')
    most = len(wrong) > MOST * seen and any(map(_stand_for_classes, labels_in.values()))
    for example in wrong:
        (findings.stop if most else findings.warn)(
            where, f'{{}} of {counted(seen, "label")} [is that|are those] of another class than '
                   'the folder', example,
            'A label is the place of its class in metainfo.classes, counted from 0')


def _stand_for_classes(folders: Dict[str, Counter]) -> bool:
    """Tell whether folders that are called as classes hold one class each.

    A single one may be called so for another reason. Those with numbers may be parts of the data,
    which hold all classes.

    Args:
        folders: The labels of the images in each.
    """
    if len(folders) < 2:
        return False
    if not all(name.isdecimal() or len(name) <= LONGEST_NUMBER for name in folders):
        return True
    largest = [labels.most_common(1)[0] for labels in folders.values()]
    total = sum(sum(labels.values()) for labels in folders.values())
    return (len({label for label, _ in largest}) == len(folders)
            and sum(count for _, count in largest) >= ONE_CLASS * total)


def _entry(line: str) -> Tuple[str, Optional[int]]:
    """Split a line as the host does; the label is None if the host fails."""
    path, _, label = line.strip().rpartition(' ')
    try:
        return path, int(label) if path else None
    except ValueError:
        return path, None


def _problem(line: str) -> str:
    text = line.strip()
    end = text.rpartition(' ')[2]
    for separator, name in (('\t', 'a tab'), (',', 'a comma'), (';', 'a semicolon')):
        if separator in end or (separator == ',' and separator in text):
            return f'with {name} before the label, expected a blank'
    try:
        float(end)
    except ValueError:
        return 'without a label'
    return 'whose label is not a whole number' if ' ' in text else 'without a path'
