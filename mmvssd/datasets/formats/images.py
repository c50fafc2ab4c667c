"""Find the image that an annotation file of one image means."""
import re
from pathlib import Path, PurePosixPath
from typing import List, Optional, Sequence

from mmvssd.datasets.formats.tree import Tree
from mmvssd.datasets.formats.words import KINDS
from mmvssd.errors import DataError
from mmvssd.phrases import some

#: What is said of annotation files that several images fit.
SEVERAL = '{} annotation file[s] [has|have] several images of [its|their] name'
NAME_IT = 'Give the images names that differ, or lay each annotation file beside its image'


def image_near(candidates: Sequence[Path], file: Path, named: str, tree: Tree) -> Optional[Path]:
    """Return the one of some images that lies nearest to an annotation file.

    Folders such as ``images`` and ``Annotations`` do not count. An image of another part than the
    file's is none of its images, as ``train/images/0.jpg`` is not of ``val/labels/0.json``.

    Args:
        candidates: Images whose names fit.
        file: The annotation file.
        named: The image's name in it, perhaps with folders.
        tree: The files that are there.

    Returns:
        The image; None if there is none.

    Raises:
        DataError: Several are equally near.
    """
    part = tree.part_of(file.parent)
    candidates = [path for path in candidates
                  if part is None or tree.part_of(path.parent) in (None, part)]
    photographs = [path for path in candidates if path.parent == file.parent
                   or 'segmentation' not in path.parent.name.lower()]
    place = _place(file, tree)

    def nearness(path: Path) -> tuple:
        other = _place(path, tree)
        common = shared_length(place, other)
        agreeing = shared_length(PurePosixPath(named).parts[::-1], path.parts[::-1])
        depth = abs(len(path.parts) - len(file.parts))
        # a PNG file beside a JPEG file of its name is a label map
        png = path.suffix.lower() == '.png'
        return common, path.parent == file.parent, agreeing, -len(other), -depth, not png

    ranks = {path: nearness(path) for path in photographs or candidates}
    best = [path for path, rank in ranks.items() if rank == max(ranks.values())]
    if len(best) > 1:
        raise DataError(f'{file}: {some([tree.relative(path) for path in best])} are equally near')
    return best[0] if best else None


def _place(path: Path, tree: Tree) -> List[str]:
    """Return the names of a file's folders without words that tell images from annotations."""
    names = tree.relative(path).lower().split('/')[:-1]
    words = ([word for word in re.split(r'[\W_]+', name) if word and word not in KINDS]
             for name in names)
    return ['_'.join(some_words) for some_words in words if some_words]


def shared_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many names two paths have in common from their beginning on."""
    pairs = enumerate(zip(first, second))
    return next((index for index, (one, other) in pairs if one != other),
                min(len(first), len(second)))
