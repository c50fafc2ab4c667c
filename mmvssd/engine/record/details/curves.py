"""Precision over recall, thinned out."""
from typing import List, Tuple

import numpy as np

#: Points of a curve that are kept.
POINTS = 101


def precision_recall(scores: np.ndarray, correct: np.ndarray,
                     positives: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return precision and recall as the threshold on the score falls.

    Args:
        scores: (N, ) of what was predicted.
        correct: (N, ) whether it is right.
        positives: How many there are to find.

    Returns:
        Precision and recall, (M, ) each: one point for each score that occurs.
    """
    order = np.argsort(-scores, kind='stable')
    hits, sorted_scores = np.cumsum(correct[order]), scores[order]
    ends = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True)) if len(order) else []
    hits = hits[ends] if len(order) else np.zeros(0)
    return hits / (np.asarray(ends) + 1), hits / max(positives, 1)


def thinned(precision: np.ndarray, recall: np.ndarray) -> List[List[float]]:
    """Return points (recall, precision) at even steps of recall, the best precision from each on.

    Recall that is never reached has no point.
    """
    if not len(recall):
        return []
    best = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.linspace(0, 1, POINTS)
    places = np.searchsorted(recall, steps[steps <= recall[-1]], side='left')
    return [[round(float(step), 4), round(float(best[place]), 4)]
            for step, place in zip(steps, places)]


def sparse(matrix: np.ndarray) -> List[List[int]]:
    """Return the entries of a matrix of counts that are not 0: row, column, count."""
    rows, columns = np.nonzero(matrix)
    return [[int(row), int(column), int(matrix[row, column])]
            for row, column in zip(rows, columns)]
