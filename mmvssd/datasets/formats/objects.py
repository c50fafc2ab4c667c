"""Objects of an image from boxes and polygons, in COCO's form."""
from typing import Any, Dict, List, Sequence, Tuple

Box = Tuple[float, float, float, float]


def from_box(category: int, box: Box, *, crowd: bool = False) -> Dict[str, Any]:
    """Return an object that has a box only.

    Args:
        category: Index of its class.
        box: Left, top, right and bottom edge in pixels.
        crowd: Whether it is neither trained on nor scored.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return dict(category_id=category, bbox=[left, top, width, height], area=width * height,
                iscrowd=int(crowd))


def from_polygons(category: int, polygons: Sequence[Sequence[float]]) -> Dict[str, Any]:
    """Return an object of one or more polygons ``[x1, y1, x2, y2, ...]`` in pixels."""
    across = [value for polygon in polygons for value in polygon[::2]]
    down = [value for polygon in polygons for value in polygon[1::2]]
    one = from_box(category, (min(across), min(down), max(across), max(down)))
    area = sum(map(polygon_area, polygons))
    return dict(one, area=area, segmentation=[list(polygon) for polygon in polygons])


def from_run_lengths(category: int, rle: Dict[str, Any], box: Sequence[float],
                     area: float) -> Dict[str, Any]:
    """Return an object whose mask is run lengths, with its box (x, y, width, height)."""
    return dict(category_id=category, bbox=list(box), area=area, iscrowd=0, segmentation=rle)


def polygon_area(polygon: Sequence[float]) -> float:
    """Return the area that a polygon encloses, by the shoelace formula."""
    xs, ys = polygon[::2], polygon[1::2]
    return abs(sum(x * ys[index - 1] - xs[index - 1] * y
                   for index, (x, y) in enumerate(zip(xs, ys)))) / 2


def clipped(points: Sequence[Tuple[float, float]], size: Tuple[int, int]) -> List[float]:
    """Return points as one list, those beyond the image's edge moved onto it."""
    width, height = size
    return [value for x, y in points
            for value in (min(max(x, 0.), float(width)), min(max(y, 0.), float(height)))]
