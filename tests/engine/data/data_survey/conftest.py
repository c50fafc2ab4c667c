"""Sample data that a test may spoil."""
import pytest

from mmvssd.datasets import make_sample_data


@pytest.fixture
def digits(tmp_path):
    """Folder of sample data that a test may spoil."""
    return make_sample_data(tmp_path / 'digits', num_scenes=(4, 4), num_crops=(4, 4),
                            progress=False)
