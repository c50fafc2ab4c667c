"""Images that are there twice, or in training and validation, by their content."""
import hashlib
import os
from collections import defaultdict
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from mmvssd.engine.data.data_survey.leaves import Leaf
from mmvssd.engine.data.data_survey.readers import is_elsewhere
from mmvssd.engine.data.file_facts import MISSING, FileFacts
from mmvssd.engine.data.findings import Findings
from mmvssd.phrases import counted

#: Images of validation that are compared with those of training.
MOST_COMPARED = 1000


def check_apart(leaves: List[Leaf], files: FileFacts, findings: Findings,
                most: int = MOST_COMPARED) -> None:
    """Look for images of validation that are trained on, by their content.

    Args:
        leaves: Data sets of all phases.
        files: Facts of their files.
        findings: Where they are noted.
        most: Images that are compared, evenly spread over more.
    """
    trained: Dict[int, List[str]] = {}
    classes: Dict[str, Optional[str]] = {}
    for leaf in leaves:
        if leaf.phase == 'train' and not is_elsewhere(leaf.dataset):
            classes.update(classes_of(leaf))
            for path in (entry['img_path'] for _, entry in leaf.entries):
                if os.path.isfile(path):
                    trained.setdefault(os.path.getsize(path), []).append(path)
    for leaf in leaves:
        if leaf.phase != 'train' and trained and not is_elsewhere(leaf.dataset):
            _compare_with(trained, classes, leaf, files, findings, most)


def classes_of(leaf: Leaf) -> Dict[str, Optional[str]]:
    """Return the name of each image's class, or classes, by path; None if images have none."""
    names = (getattr(leaf.dataset, 'metainfo', None) or {}).get('classes') or ()
    return {entry['img_path']: _named(entry.get('gt_label'), names) for _, entry in leaf.entries}


def _named(label: Any, names: Any) -> Optional[str]:
    if label is None:
        return None
    return ' and '.join(str(names[one]) if 0 <= one < len(names) else str(one)
                        for one in np.atleast_1d(label).tolist())


def differ(one: Optional[str], other: Optional[str]) -> bool:
    """Tell whether images have classes, and not the same."""
    return None not in (one, other) and one != other


def _compare_with(trained: Dict[int, List[str]], classes: Dict[str, Optional[str]], leaf: Leaf,
                  files: FileFacts, findings: Findings, most: int) -> None:
    own = classes_of(leaf)
    step = max(1, len(leaf.entries) // most)
    paths = [entry['img_path'] for _, entry in leaf.entries[::step]]
    paths = [path for path in paths if os.path.isfile(path)]
    others = {path: trained.get(os.path.getsize(path), []) for path in paths}
    digests = files.read('content', digest, [
        path for one, same in others.items() if same for path in (one, *same)])
    for path, same in others.items():
        twin = next((other for other in same if digests.get(path)
                     and digests.get(other) == digests[path]), None)
        if twin is None:
            continue
        findings.warn(leaf.where, f'{{}} of {counted(len(paths), "compared image")} [is|are] '
                      'trained on', f'{path} is {twin}')
        if differ(own[path], classes[twin]):
            findings.warn(leaf.where, '{} image[s] [is|are] trained on as another class',
                          f'{path} is {twin}: {own[path]} here, {classes[twin]} in training')


def check_copies(where: str, paths: Sequence[str], classes: Dict[str, Optional[str]],
                 files: FileFacts, findings: Findings) -> None:
    """Note images that are the same file under another name, and those of another class.

    Args:
        where: What the findings are noted of.
        paths: The images.
        classes: The class of each, by path, as far as they have one.
        files: Facts of their files. Only files of one size are read.
        findings: Where they are noted.
    """
    by_size: Dict[int, List[str]] = defaultdict(list)
    for path in set(paths):
        if os.path.isfile(path):
            by_size[os.path.getsize(path)].append(path)
    alike = sorted(path for same in by_size.values() if len(same) > 1 for path in same)
    digests = files.read('content', digest, alike)
    first: Dict[str, str] = {}
    for path in alike:
        found = digests.get(path)
        if found in (None, MISSING):  # there was no time, or it is gone
            continue
        twin = first.setdefault(found, path)
        own, other = classes.get(path), classes.get(twin)
        if differ(own, other):
            findings.warn(where, '{} image[s] [is a copy|are copies] of one of another class',
                          f'{path} is {twin}: {own} and {other}',
                          'Keep the one whose class is right')
        elif twin != path:
            findings.warn(where, '{} image[s] [is a copy|are copies] of another one',
                          f'{path} is {twin}')


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
