"""Tiles cover an image; what was found in them is put together once."""
from itertools import pairwise

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmvssd.cli.entries import label_map_segments, segments
from mmvssd.cli.run_lengths import placed_run_lengths
from mmvssd.cli.tiles import BlendedLabels, Grid, check_grid, merged, placed
from mmvssd.errors import ConfigError

GRIDS = [((100, 100), 32, 8), ((33, 97), 32, 16), ((32, 32), 32, 8), ((20, 70), 32, 0),
         ((65, 64), 32, 1), ((7, 5), 32, 16), ((48, 41), 40, 20), ((1, 90), 4, 2)]


@pytest.mark.parametrize(('shape', 'tile', 'overlap'), GRIDS)
def test_tiles_cover_an_image(shape, tile, overlap):
    grid = Grid(shape, tile, overlap)
    seen = np.zeros(shape, int)
    windows = list(grid.windows())
    assert len(windows) == len(grid)
    for left, top, right, bottom in windows:
        assert (bottom - top, right - left) == (min(tile, shape[0]), min(tile, shape[1]))
        seen[top:bottom, left:right] += 1
    assert seen.min() == 1
    for starts in (grid.rows, grid.columns):
        assert all(after - before <= tile - overlap for before, after in pairwise(starts))


@pytest.mark.parametrize(('shape', 'tile', 'overlap'), GRIDS)
def test_weights_add_up(shape, tile, overlap):
    grid = Grid(shape, tile, overlap)
    for ramps, starts, side in zip(grid.blended(), (grid.rows, grid.columns), shape):
        total = np.zeros(side)
        for ramp, start in zip(ramps, starts):
            assert start <= ramp.start < ramp.end <= start + min(tile, side)
            total[ramp.start:ramp.end] += ramp.weights
        np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize(('tile', 'overlap', 'message'), [
    (0, 0, '--tile: got 0'), (-5, 0, '--tile: got -5'), (64, 33, '--overlap: got 33, expected 0 to '
                                                         'half of the tiles, 32'),
    (64, -1, '--overlap: got -1')])
def test_grids_that_cannot_be(tile, overlap, message):
    with pytest.raises(ConfigError, match=message):
        check_grid(tile, overlap)


@pytest.mark.parametrize(('shape', 'tile', 'overlap'), GRIDS)
def test_scores_are_blended_over_seams(shape, tile, overlap):
    """The same as sums of weighted scores of the whole image, also if each tile goes on anew."""
    random, grid = np.random.default_rng(0), Grid(shape, tile, overlap)
    tiles = [random.random((3, grid.height, grid.width), np.float32) for _ in range(len(grid))]
    total = np.zeros((3, *shape))
    rows, columns = grid.blended()
    for number, scores in enumerate(tiles):
        row, column = divmod(number, len(columns))
        down, across = rows[row], columns[column]
        top, left = grid.rows[row], grid.columns[column]
        total[:, down.start:down.end, across.start:across.end] += scores[
            :, down.start - top:down.end - top, across.start - left:across.end - left] * (
                down.weights[:, None] * across.weights)
    result, labels = np.zeros((2, *shape[::-1]), np.uint8)
    blended, resumed = BlendedLabels(grid, result), BlendedLabels(grid, labels)
    for scores in tiles:
        blended.add(scores.copy())
        seams, resumed = resumed.seams, BlendedLabels(grid, labels)
        resumed.seams = seams
        resumed.add(scores)
    np.testing.assert_array_equal(result, labels)
    result = result.T
    best, second = np.sort(total, 0)[[-1, -2]]
    clear = best - second > 1e-3  # than half precision rounds
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(result[clear], total.argmax(0)[clear])


def seen(grid, objects):
    """Return what each tile sees of objects: class, score, and a filled box."""
    tiles = []
    for window in grid.windows():
        found = []
        for label, score, box in objects:
            part = np.clip(box, [window.left, window.top] * 2, [window.right, window.bottom] * 2)
            if (part[2:] - part[:2]).min() > 0:
                part = part - [window.left, window.top] * 2
                mask = np.zeros((grid.height, grid.width), bool)
                mask[part[1]:part[3], part[0]:part[2]] = True
                area = (part[2:] - part[:2]).prod() / np.prod(np.subtract(box[2:], box[:2]))
                found.append((label, score * (0.9 + 0.1 * area), part, mask))
        labels, scores, boxes, masks = zip(*found) if found else [()] * 4
        masks = np.array(masks, bool).reshape(-1, grid.height, grid.width)
        tiles.append(placed(window, np.array(labels, int), np.array(scores),
                            np.array(boxes, float).reshape(-1, 4), masks))
    return list(grid.windows()), tiles, grid.shape


def assert_once(grid, objects):
    found = merged(*seen(grid, objects))
    assert sorted((one.label, one.box.tolist()) for one in found) == sorted(
        (label, list(map(float, box))) for label, _, box in objects)
    for one in found:
        left, top, right, bottom = one.box.astype(int)
        assert one.corner == (left, top)
        assert one.mask.shape == (bottom - top, right - left)
        assert one.mask.all()


def test_objects_on_seams_are_found_once():
    grid = Grid((150, 200), 64, 24)
    random, objects = np.random.default_rng(0), []
    for top in range(2, 130, 22):  # beside one another, smaller than the overlap
        for left in range(2, 180, 22):
            down, across = random.integers(8, 20, 2)
            objects.append((int(random.integers(2)), random.random(),
                            np.array([left, top, left + across, top + down])))
    assert_once(grid, objects)


def test_an_object_larger_than_a_tile_is_joined():
    grid = Grid((150, 200), 64, 24)
    assert_once(grid, [(0, 0.9, np.array([3, 20, 190, 55])), (1, 0.8, np.array([30, 10, 60, 145])),
                       (0, 0.5, np.array([90, 70, 199, 149]))])


def test_objects_within_one_another_stay():
    """As those of another class do at the same place."""
    grid = Grid((64, 100), 64, 28)
    assert_once(grid, [(0, 0.9, np.array([38, 5, 62, 60])), (0, 0.8, np.array([40, 10, 50, 30])),
                       (1, 0.7, np.array([38, 5, 62, 60]))])


def test_nothing_is_found():
    grid = Grid((150, 200), 64, 24)
    assert merged(*seen(grid, [])) == []


def test_boxes_without_masks():
    windows, tiles, shape = seen(Grid((64, 100), 64, 28), [(0, 0.9, np.array([30, 5, 80, 60]))])
    bare = [[one._replace(mask=None) for one in tile] for tile in tiles]
    one, = merged(windows, bare, shape)
    assert one.mask is None
    assert one.box.tolist() == [30, 5, 80, 60]


@pytest.mark.parametrize('corner', [(0, 0), (3, 5), (10, 0), (0, 12), (10, 12)])
@pytest.mark.parametrize('share', [0, 0.4, 0.9, 1])
def test_run_lengths_of_a_part(corner, share):
    part = np.random.default_rng(0).random((8, 9)) < share
    left, top = corner
    whole = np.zeros((20, 19), np.uint8)
    whole[top:top + 8, left:left + 9] = part
    assert placed_run_lengths(part, corner, (20, 19)) == dict(
        size=[20, 19], counts=coco_mask.encode(np.asfortranarray(whole))['counts'].decode())
    assert placed_run_lengths(np.zeros((0, 0), bool), (0, 0), (20, 19)) == dict(
        size=[20, 19],
        counts=coco_mask.encode(np.zeros((20, 19), np.uint8, order='F'))['counts'].decode())


@pytest.mark.parametrize('block', [1, 7, 40, 2**20])
def test_a_label_map_in_blocks(monkeypatch, block):
    monkeypatch.setattr('mmvssd.cli.entries.BLOCK', block)
    labels = np.repeat(np.random.default_rng(0).integers(0, 4, (30, 7)), 3, axis=1)
    labels[0] = labels[:, 0] = 2
    result = label_map_segments(np.ascontiguousarray(labels.T), 'abcd')
    true = segments(labels, 'abcd')
    assert result['segments'] == sorted(true['segments'], key=lambda one: -one['share'])
