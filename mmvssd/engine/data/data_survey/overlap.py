"""Images of validation that are trained on, by their content."""
import hashlib
import os
from typing import Dict, List, Optional

from mmvssd.engine.data.data_survey.leaves import Leaf
from mmvssd.engine.data.data_survey.readers import is_elsewhere
from mmvssd.engine.data.file_facts import FileFacts
from mmvssd.engine.data.findings import Findings

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
    for leaf in leaves:
        if leaf.phase == 'train' and not is_elsewhere(leaf.dataset):
            for path in (entry['img_path'] for _, entry in leaf.entries):
                if os.path.isfile(path):
                    trained.setdefault(os.path.getsize(path), []).append(path)
    for leaf in leaves:
        if leaf.phase != 'train' and trained and not is_elsewhere(leaf.dataset):
            _compare_with(trained, leaf, files, findings, most)


def _compare_with(trained: Dict[int, List[str]], leaf: Leaf, files: FileFacts,
                  findings: Findings, most: int) -> None:
    step = max(1, len(leaf.entries) // most)
    paths = [entry['img_path'] for _, entry in leaf.entries[::step]]
    paths = [path for path in paths if os.path.isfile(path)]
    others = {path: trained.get(os.path.getsize(path), []) for path in paths}
    digests = files.read('content', digest, [
        path for one, same in others.items() if same for path in (one, *same)])
    for path, same in others.items():
        twin = next((other for other in same if digests.get(path)
                     and digests.get(other) == digests[path]), None)
        if twin is not None:
            findings.warn(leaf.where, f'{{}} of {len(paths)} compared images [is|are] trained on',
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
