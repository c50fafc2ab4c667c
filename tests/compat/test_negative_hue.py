"""A hue that is turned backwards."""
import numpy as np
import pytest

mmcv = pytest.importorskip('mmcv')


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('turn', [0.1, 0.25, 0.4])
def test_backwards_is_the_rest_of_the_circle(backend, turn):
    """The byte of a turn backwards and that of one forwards sum up to the whole circle."""
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    back = mmcv.adjust_hue(image, -turn, backend=backend)
    # 256 steps in all, so this is a turn forwards by 256 - int(255 turn) of them
    half = (256 - int(255 * turn)) / 2 / 255
    once = mmcv.adjust_hue(image, half + 1e-4, backend=backend)
    forwards = mmcv.adjust_hue(once, half - 1e-4, backend=backend)
    assert np.abs(back.astype(int) - forwards).mean() < 6  # each turn rounds
    assert np.abs(back.astype(int) - image).mean() > 20


@pytest.mark.parametrize('turn', [-0.5, -0.001, 0., 0.5])
def test_the_ends_of_the_circle(turn):
    image = np.full((4, 4, 3), (0, 0, 255), np.uint8)  # red, in BGR
    hue = mmcv.bgr2hsv(mmcv.adjust_hue(image, turn))[0, 0, 0] * 2
    assert min(abs(hue - 360 * turn % 360), 360 - abs(hue - 360 * turn % 360)) <= 4


def test_what_is_refused():
    with pytest.raises(ValueError, match=r'is not in \[-0.5, 0.5\]'):
        mmcv.adjust_hue(np.zeros((2, 2, 3), np.uint8), -0.6)
