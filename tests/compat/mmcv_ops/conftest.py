"""mmcv's ops as this package serves them, in an environment with a compiled mmcv too."""
import pytest

pytest.importorskip('mmcv')

from mmvssd.compat import mmcv_ops


@pytest.fixture
def own_ops():
    """``mmcv.ops`` served by this package, and not by torchvision."""
    from mmvssd.compat.mmcv_ops import through_torchvision
    with pytest.MonkeyPatch.context() as patch, mmcv_ops.served_by(mmcv_ops.extension()):
        patch.setattr(through_torchvision, 'serves', lambda device: False)
        import mmcv.ops
        yield mmcv.ops


@pytest.fixture(scope='session')
def compiled():
    """mmcv's compiled module."""
    from mmvssd.analysis.mmcv_ops_speed import compiled
    try:
        return compiled()
    except ValueError as error:
        pytest.skip(str(error))
