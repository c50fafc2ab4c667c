"""Images of a run's page that are no photographs."""
import numpy as np
import pytest

from mmvssd.reports.runs.details import _pixels


@pytest.mark.parametrize('name', ['a.npy', 'a.tif'])
def test_an_image_of_many_bands_is_shown(name, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (16, 20, 13)).astype(np.uint8)
    if name == 'a.npy':
        np.save(tmp_path / name, image)
    else:
        pytest.importorskip('tifffile').imwrite(tmp_path / name, image, photometric='minisblack',
                                                planarconfig='contig')
    np.testing.assert_array_equal(_pixels(tmp_path / name), image[..., :3])


def test_an_image_that_is_not_there_stays_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        _pixels(tmp_path / 'a.npy')
