"""Files of a classifier's weights, and backbones that begin from them."""
import pytest
import torch

from mmvssd.families import FAMILIES
from mmvssd.models import VSSD


@pytest.fixture
def saved(tmp_path):
    """Save weights as a host's classifier checkpoint would hold them; return the file."""

    def save(state, prefix='backbone.', drop=('norm0', 'norm1', 'norm2'), **entries):
        file = tmp_path / 'checkpoint.pth'
        state = {prefix + name: value for name, value in state.items()
                 if not name.startswith(tuple(drop))}
        torch.save(dict(state_dict={**state, 'head.fc.bias': torch.zeros(10)}, **entries), file)
        return str(file)

    return save


@pytest.fixture
def load():
    """Return a function that builds a backbone which begins from a file."""

    def build(file, arch=FAMILIES['vssd'].nano, prefix='backbone.', family=VSSD, **options):
        model = family(arch, init_cfg=dict(type='Pretrained', checkpoint=file, prefix=prefix),
                       **options)
        model.init_weights()
        return model

    return build
