"""What was done of an image in tiles is kept as it was, and only for that image."""
import numpy as np
import pytest

from mmvssd.cli.resuming import NAME
from mmvssd.cli.tiles import BlendedLabels, Grid, Placed
from mmvssd.cli.unfinished import (
    FOLDER,
    IMAGE,
    LABELS,
    SEAMS,
    TILES,
    FoundTiles,
    KeptSeams,
    Unfinished,
    label_map_in,
)
from mmvssd.errors import ConfigError

MASK = np.random.default_rng(0).random((5, 11)) < 0.5
FOUND = [Placed(1, 0.1 + 0.2, np.array([0.1, 1 / 3, 2e9, 4]), (3, 5), MASK),
         Placed(0, 1.0, np.array([0., 0, 1, 1]), (0, 0), np.zeros((0, 0), bool)),
         Placed(2, float(np.float32(0.7)), np.array([-1., 0, 1, 1]), (0, 0), None)]


def assert_same(tiles, expected):
    assert [len(tile) for tile in tiles] == list(map(len, expected))
    for tile, true in zip(tiles, expected):
        for one, other in zip(tile, true):
            assert (one.label, one.score, one.corner) == (other.label, other.score, other.corner)
            np.testing.assert_array_equal(one.box, other.box)
            assert (one.mask is None) == (other.mask is None)
            if one.mask is not None:
                assert one.mask.dtype == bool
                np.testing.assert_array_equal(one.mask, other.mask)


def test_what_was_found_is_read_again_bit_by_bit(tmp_path):
    tiles, file = [FOUND, [], FOUND[:1], FOUND[1:]], tmp_path / TILES
    kept = FoundTiles(file)
    for tile in tiles:
        kept.add(tile)
    whole = file.read_bytes()
    assert_same(FoundTiles(file).tiles, tiles)
    file.write_bytes(whole)
    assert_same(FoundTiles(file, 3).tiles, tiles[:3])  # as of batches of three
    assert FoundTiles(file, 3).tiles != []
    for cut in range(1, len(whole.splitlines(True)[-1]) + 1):
        file.write_bytes(whole[:-cut])
        again = FoundTiles(file)
        assert_same(again.tiles, tiles[:3])
        again.add(tiles[3])
        assert file.read_bytes() == whole
    file.write_bytes(whole[:-40] + bytes(40))  # a machine stopped
    assert_same(FoundTiles(file).tiles, tiles[:3])


def test_the_seams_of_another_map_are_not_taken(tmp_path):
    grid, random = Grid((20, 30), 16, 4), np.random.default_rng(0)
    scores = random.random((3, grid.height, grid.width), np.float32)

    def begin():
        blended = BlendedLabels(grid, label_map_in(tmp_path, grid.shape, 3))
        return blended, KeptSeams(tmp_path / SEAMS, blended)

    blended, kept = begin()
    blended.add(scores)
    kept.keep()
    assert begin()[0].number == 1
    np.testing.assert_array_equal(begin()[0].beside, blended.beside)
    (tmp_path / LABELS).unlink()
    assert begin()[0].number == 0
    kept.next = 0
    kept.keep()
    (tmp_path / SEAMS).write_bytes((tmp_path / SEAMS).read_bytes()[:99])
    assert begin()[0].number == 0


def test_the_folder_is_of_one_image_and_of_one_model(tmp_path):
    (tmp_path / 'a.tif').write_bytes(b'a')
    (tmp_path / 'b.tif').write_bytes(b'b')

    def begin(name='a.tif', resume=True, **settings):
        Unfinished(tmp_path, dict(tile=64, **settings), resume).begin(tmp_path / name)
        return sorted(file.name for file in (tmp_path / FOLDER).iterdir())

    new = sorted([IMAGE, NAME])
    assert begin() == new
    (tmp_path / FOLDER / TILES).touch()
    assert begin() == sorted([*new, TILES])
    assert begin('b.tif') == new
    (tmp_path / FOLDER / TILES).touch()
    (tmp_path / 'b.tif').write_bytes(b'another')
    assert begin('b.tif') == new
    with pytest.raises(ConfigError, match='--resume: the predictions in .* were made with another '
                                          'checkpoint'):
        begin('b.tif', checkpoint_sha256='abc')
    (tmp_path / FOLDER / TILES).touch()
    assert begin('b.tif', False, checkpoint_sha256='abc') == new
    (tmp_path / FOLDER / 'mine').touch()
    (tmp_path / FOLDER / f'{SEAMS}.0123.partial').touch()
    Unfinished(tmp_path, {}, False)
    assert [file.name for file in (tmp_path / FOLDER).iterdir()] == ['mine']
