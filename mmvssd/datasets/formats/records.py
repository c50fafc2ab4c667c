"""What is read of data in any format: parts, items, classes."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

#: Parts of data; one of which nothing says to which part it belongs is WHOLE.
TRAIN, VAL, TEST, WHOLE = 'train', 'val', 'test', 'whole'
#: Tasks.
DETECTION, SEGMENTATION, CLASSIFICATION = 'det', 'seg', 'cls'


@dataclass
class Item:
    """One image and what is annotated of it.

    Attributes:
        image: Its file, absolute.
        size: Its (width, height) in pixels as the annotations have it; None if they do not.
        label: Index of its class, in classification; else None.
        label_map: Its label map's file, in segmentation; else None.
        objects: Its objects, in detection: annotations as in a COCO file, without ids, whose
            ``category_id`` is the index of the class.
        source: Name of what annotates it, for messages.
    """

    image: Path
    size: Optional[Tuple[int, int]] = None
    label: int = None  # type: ignore[assignment]
    label_map: Path = None  # type: ignore[assignment]
    objects: List[Dict[str, Any]] = field(default_factory=list)
    source: str = ''
    values: Set[int] = field(default_factory=set)

    @property
    def classes(self) -> Set[int]:
        """Indices of the classes that occur in it."""
        if self.label is not None:
            return {self.label}
        return {one['category_id'] for one in self.objects if not one['iscrowd']} | self.values


@dataclass
class Part:
    """One part of the data.

    Attributes:
        items: Its images.
        as_is: Settings of a host's data set that reads these items as they lie; None if they have
            to be written anew.
    """

    items: List[Item]
    as_is: Optional[Dict[str, Any]] = None


@dataclass
class Data:
    """Data that were read.

    Attributes:
        task: One of 'det', 'seg' and 'cls'.
        classes: Names, by index.
        parts: By TRAIN, VAL and TEST, or only WHOLE.
        palette: RGB of each class, 0 to 255; None if the data have none.
        listed: Whether the data list their classes, so that some may never occur.
        ignore_zero: Whether 0 of a label map is not labelled, and classes count from 1.
        recoding: Makes numbers of classes of the label maps; None if they are such.
        background: Class of what no object covers, if label maps are painted from objects.
        notes: What else is to be said of the data.
    """

    task: str
    classes: List[str]
    parts: Dict[str, Part]
    palette: Optional[List[Tuple[int, int, int]]] = None
    listed: bool = True
    ignore_zero: bool = False
    recoding: Optional[Any] = None
    background: Optional[int] = None
    notes: List[str] = field(default_factory=list)

    @property
    def items(self) -> List[Item]:
        """All items of all parts."""
        return [item for part in self.parts.values() for item in part.items]


@dataclass
class Found:
    """A format that was recognized.

    Attributes:
        files: Files that speak for it.
        reason: What speaks for it, in words.
        sureness: 'certain', 'likely' or 'a guess'.
    """

    files: List[Path]
    reason: str
    sureness: str = 'certain'
