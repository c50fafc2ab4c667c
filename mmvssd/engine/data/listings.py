"""Folders and lists of images, as MMPreTrain's and MMSegmentation's data sets read them."""
import io
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from mmvssd.engine.data.findings import Findings
from mmvssd.phrases import short, some

#: Endings of images, for files that a data set passes over.
IMAGE_ENDINGS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.tif', '.tiff', '.webp',
                 '.ppm', '.pgm', '.gif', '.jp2')
#: Names of folders of splits, which are no classes.
SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'test', 'testing'}

#: Share of labels that contradict their folders from which on it is no slip.
MOST = 0.5
#: Share of a folder's images that are of one class if the folder stands for a class.
ONE_CLASS = 0.9
#: Letters of a folder's name up to which it may number a part of the data instead.
LONGEST_NUMBER = 2

#: Folders that programs make beside the user's.
MADE_BY_PROGRAMS = {'__pycache__', '__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN',
                    'System Volume Information'}

FORM = 'A line is PATH LABEL: a path, one blank, a whole number from 0 on'
NAME_FORM = 'A line is the NAME of an image below the folder of data_prefix, without its ending'

#: Patterns of what lists hold besides a path, and what is said of them.
BESIDES_PATHS = {
    r'["\'].*["\']$': 'whose path is in quotes, which count as part of it',
    r'.*\S:?\\\S': 'whose path has backslashes, expected /',
}
BESIDES_LABELS = {
    **BESIDES_PATHS,
    r'.*\.\w+( +\d+)+$': 'with several labels, of which all but the last count as part of the path',
}
BESIDES_NAMES = {
    **BESIDES_PATHS,
    r'.*\s-?\d+$': 'with a label, which counts as part of the name',
}


def is_hidden(name: str) -> bool:
    """Tell whether a folder is one that a program made beside the user's."""
    return name.startswith('.') or name in MADE_BY_PROGRAMS


def walk(folder: str) -> Iterator[Tuple[str, List[str], Optional[str]]]:
    """Walk through a folder as the hosts do, through links too, but out of loops.

    Yields:
        The path of each folder relative to the first, and the names of its files. Third comes a
        link in it that leads back to a folder above, or None.
    """
    waiting = [('', (os.path.realpath(folder), ))]
    while waiting:
        relative, above = waiting.pop()
        files, loop = [], None
        try:
            entries = sorted(os.scandir(os.path.join(folder, relative)), key=lambda e: e.name)
        except OSError:  # the host's reader stops at it and says why
            continue
        for entry in entries:
            if not entry.is_dir():
                files.append(entry.name)
                continue
            real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(
                above[-1], entry.name)
            if real in above:
                loop = entry.path
            else:
                waiting.append((os.path.join(relative, entry.name), (*above, real)))
        yield relative, files, loop


class Folder:
    """The files below a folder, by subfolder.

    Args:
        path: The folder.
        endings: Endings of the files that a data set reads, in lower case.
        any_case: Whether a data set reads them in upper case too.
    """

    def __init__(self, path: str, endings: Sequence[str], any_case: bool = True):
        self.path = path
        self.loops: List[str] = []
        self.read: Counter = Counter()  # by the first folder below; '' is none
        self.passed_over: Counter = Counter()
        self.example: Dict[str, str] = {}
        self.names: List[str] = []
        for relative, files, loop in walk(path):
            self.loops += [loop] * (loop is not None)
            top = relative.split(os.sep)[0]
            for name in files:
                if name.startswith('.'):
                    continue
                if (name.lower() if any_case else name).endswith(tuple(endings)):
                    self.read[top] += 1
                    self.names.append(os.path.join(relative, name))
                elif name.lower().endswith(IMAGE_ENDINGS):
                    ending = os.path.splitext(name)[1]
                    self.passed_over[ending] += 1
                    self.example.setdefault(ending, os.path.join(path, relative, name))

    def subfolders(self) -> List[str]:
        """Return the names of the folders in it, sorted."""
        return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir())

    def check(self, where: str, findings: Findings) -> None:
        """Note loops, and images of other endings."""
        for loop in self.loops:
            findings.stop(where, '{} links that lead back to a folder above them', loop,
                          'The same images would be read again and again; remove them')
        for ending, count in self.passed_over.items():
            findings.warn(where, f'{count} images that end with {ending} are not read, files that '
                                 "end as the recipe's are", self.example[ending],
                          'Rename them, or change the suffix or the extensions of the data set')


def check_class_folders(dataset, where: str, findings: Findings) -> None:
    """Look at a folder with a subfolder of images for each class (MMPreTrain).

    Args:
        dataset: A data set of MMPreTrain's CustomDataset without ``ann_file``.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
    """
    path = dataset.img_prefix
    where = f'{where}: {path}'
    if not os.path.isdir(path):
        findings.stop(where, 'is no folder', advice='Check data_root and data_prefix')
        return
    folder = Folder(path, dataset.extensions)
    folder.check(where, findings)
    names = folder.subfolders()
    if not names:
        what = (f'{folder.read[""]} images lie in it and no folders of classes' if folder.read['']
                else 'holds no image')
        findings.stop(where, what, advice='Make a folder for each class, or name a list with '
                                          'ann_file')
        return
    if not folder.read:
        findings.stop(where, f'holds no image that ends with {", ".join(dataset.extensions)}')
        return
    _check_class_names(names, folder, where, findings)
    classes = dataset.metainfo.get('classes')
    if isinstance(classes, (list, tuple)):
        _compare(list(classes), names, where, findings)


def _check_class_names(names: List[str], folder: Folder, where: str, findings: Findings) -> None:
    for name in filter(is_hidden, names):
        findings.stop(where, '{} hidden folders count as classes', name,
                      'They move the labels of others; remove them')
    if len(names) > 1 and set(map(str.lower, names)) <= SPLITS:
        findings.stop(where, f'the folders of splits {", ".join(names)} count as classes',
                      advice='Add the split to data_prefix')
    elif len(names) == 1:
        findings.warn(where, f'there is one class, {names[0]}')
    for name in names:
        if not folder.read.get(name) and not is_hidden(name):
            findings.warn(where, '{} folders of classes without an image', name)
    if folder.read.get(''):
        findings.warn(where, f'{folder.read[""]} images lie beside the folders of classes and are '
                             'not read')


def _compare(classes: List[str], names: List[str], where: str, findings: Findings) -> None:
    """Compare the recipe's classes with the folders, which are numbered in sorted order."""
    if len(classes) != len(names):
        apart = sorted(set(classes) ^ set(names), key=str)
        findings.stop(where, f'has {len(names)} folders, the recipe has {len(classes)} classes; '
                             f'only one of both has {some(apart)}')
        return
    common = set(classes) & set(names)
    for index, (name, folder) in enumerate(zip(classes, names)):
        if name in common and name != folder:
            findings.stop(where, '{} classes have the place of another folder',
                          f'class {index} is {name}, folder {index} is {folder}',
                          'Folders are numbered in sorted order; sort metainfo.classes')
        elif common and name != folder:
            findings.warn(where, "{} folders of other names than the recipe's class",
                          f'class {index} is {name}, its folder {folder}')


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
    for number, line in _lines(file, where, findings):
        path, label = _entry(line)
        example = f'line {number}: {short(line)}'
        if label is None:
            findings.stop(where, f'{{}} lines {_problem(line)}', example, FORM)
        elif label < 0:
            findings.stop(where, '{} labels below 0', example, FORM)
        elif path in labels and labels[path][1] != label:
            findings.stop(where, '{} images with several labels',
                          f'lines {labels[path][0]} and {number}: {path}')
        elif path in labels:
            findings.warn(where, '{} lines of images that are listed already',
                          f'lines {labels[path][0]} and {number}: {path}')
        if label is not None:
            problem = _besides(path, os.path.join(dataset.img_prefix or '', path), BESIDES_LABELS)
            if problem:
                findings.stop(where, f'{{}} lines {problem}', example, FORM)
            labels.setdefault(path, (number, label))
    if len({label for _, label in labels.values()}) == 1 and len(labels) > 1:
        findings.warn(where, f'all {len(labels)} images have one label')
    classes = dataset.metainfo.get('classes')
    if isinstance(classes, (list, tuple)):
        _compare_labels(list(classes), labels, where, findings)


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
            where, f'{{}} of {seen} labels are those of another class than the folder', example,
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


def _besides(text: str, file: str, problems: Dict[str, str]) -> Optional[str]:
    """Return what a line's path or name seems to hold besides; None if there is such a file."""
    problem = next((problem for pattern, problem in problems.items() if re.match(pattern, text)),
                   None)
    return problem if problem and not os.path.exists(file) else None


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
    return 'whose label is no whole number' if ' ' in text else 'without a path'


def check_name_list(dataset, where: str, findings: Findings) -> None:
    """Look at a list of names without suffix (MMSegmentation).

    Args:
        dataset: A data set of MMSegmentation's BaseSegDataset with ``ann_file``.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
    """
    file = dataset.ann_file
    where = f'{where}: {file}'
    seen: Dict[str, int] = {}
    for number, line in _lines(file, where, findings):
        name = line.strip()
        if name in seen:
            findings.warn(where, '{} lines of images that are listed already',
                          f'lines {seen[name]} and {number}: {name}')
        seen.setdefault(name, number)
        path = os.path.join(dataset.data_prefix.get('img_path') or '', name + dataset.img_suffix)
        problem = _besides(name, path, BESIDES_NAMES)
        if problem:
            findings.stop(where, f'{{}} lines {problem}', f'line {number}: {short(name)}',
                          NAME_FORM)
        elif name.lower().endswith(IMAGE_ENDINGS) and not os.path.exists(path):
            findings.stop(where, '{} names with an ending, the data set adds its img_suffix '
                                 f'{dataset.img_suffix}', f'line {number}: {name}',
                          'Write names without it')


def _lines(file: str, where: str, findings: Findings) -> List[Tuple[int, str]]:
    """Return the lines that hold something, with their numbers; the others are noted."""
    try:
        text = Path(file).read_bytes().decode('utf-8')
    except UnicodeDecodeError:
        findings.stop(where, 'is not encoded in UTF-8')
        return []
    except OSError as error:
        findings.stop(where, f'cannot be read ({error.strerror})')
        return []
    if text.startswith('\ufeff'):
        findings.stop(where, 'begins with a byte order mark (BOM), which counts as part of the '
                             'first path', advice='Save it as UTF-8 without BOM')
        text = text[1:]
    # where Python's reader of files ends lines, unlike splitlines
    lines = list(enumerate(io.StringIO(text, newline=None), 1))
    if not any(line.strip() for _, line in lines):
        findings.stop(where, 'lists no images')
        return []
    for number, line in lines:
        if not line.strip():
            findings.stop(where, '{} blank lines', f'line {number}', 'Remove them')
    return [(number, line.rstrip('\n')) for number, line in lines if line.strip()]


def check_folder(dataset, where: str, findings: Findings, labelled: bool) -> None:
    """Look at folders of images and of label maps (MMSegmentation).

    Args:
        dataset: A data set of MMSegmentation's BaseSegDataset without ``ann_file``.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
        labelled: Whether label maps are read.
    """
    images, maps = (dataset.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
    if not images or not os.path.isdir(images):
        findings.stop(f'{where}: {images}', 'is no folder',
                      advice='Check data_root and data_prefix')
        return
    where = f'{where}: {images}'
    folder = Folder(images, [dataset.img_suffix], any_case=False)
    if maps and f'{os.path.realpath(maps)}/'.startswith(f'{os.path.realpath(images)}/'):
        folder.passed_over.pop(os.path.splitext(f'x{dataset.seg_map_suffix}')[1], None)
    if not folder.names:
        found = ', '.join(f'{count} that end with {ending}'
                          for ending, count in folder.passed_over.items())
        findings.stop(where, f'holds no image with the suffix {dataset.img_suffix}'
                      + f', but {found}' * bool(found),
                      advice='Check data_prefix and img_suffix')
        return
    folder.check(where, findings)
    if labelled and maps and os.path.isdir(maps):
        _check_pairs(dataset, folder, maps, where, findings)


def _check_pairs(dataset, folder: Folder, maps: str, where: str, findings: Findings) -> None:
    names = {name[:-len(dataset.img_suffix)] for name in folder.names}
    suffix = dataset.seg_map_suffix
    for name in Folder(maps, [suffix], any_case=False).names:
        if name[:-len(suffix)] not in names:
            findings.warn(where, f'{{}} label maps in {maps} without an image', name)
