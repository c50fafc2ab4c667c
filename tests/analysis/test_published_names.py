"""From a published file to every picture: weights at random under the published names."""
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvssd.analysis.named_models import IMAGENET, classifier_config
from mmvssd.analysis.photographs import choose_photographs, normalized, open_picture

SIZE = 64


# one of each family; the others' maps and weights have tests of their own
@pytest.mark.slow
@pytest.mark.parametrize('published', [
    ('vssd', 'tiny-iccv2025'), ('vmamba', 'tiny-s1l8')], ids='-'.join, indirect=True)
def test_published_names_to_pictures(published, run_tool, tmp_path):
    pytest.importorskip('mmpretrain')
    torch.save(dict(model=published.weights('classifier')), tmp_path / 'published.pth')
    name = f'{published.family}-{published.arch}'
    run_tool('model_converters/convert_checkpoint.py', 'published.pth', 'converted.pth')
    common = [f'{name}@converted.pth', '--size', SIZE, '--device', 'cpu', '--images', 'sklearn']

    run_tool('analysis_tools/receptive_field.py', *common, '--before', '--out', 'field')
    maps = {file.stem: np.load(file) for file in (tmp_path / 'field').glob('*.npy')}
    before, after = (maps[f'{name}@converted{state}'] for state in (' before', ''))
    assert before.shape == after.shape == (SIZE, SIZE)
    assert (before != after).any()  # the file's weights are other ones than the seed's

    run_tool('analysis_tools/activation_maps.py', *common, '--map', 'operator', '--out', 'maps')
    for image in ('china', 'flower'):
        facts = json.loads((tmp_path / 'maps' / image / 'maps.json').read_text())
        assert facts['checkpoint'] == 'converted.pth'
        assert facts['self_check']['relative_error'] < 1e-5

    run_tool('analysis_tools/class_activation.py', *common, '--out', 'classes')
    written = json.loads((tmp_path / 'classes' / 'class_activation.json').read_text())
    model = whole_classifier(name, published)
    for entry, file in zip(written['images'], choose_photographs(['sklearn'], 2)):
        image = normalized(open_picture(file, SIZE).image, IMAGENET)
        with torch.no_grad():
            scores = model(image, mode='tensor')[0].softmax(0)
        assert entry['predicted'] == entry['category'] == int(scores.argmax())
        assert entry['predicted_score'] == pytest.approx(scores.max().item(), rel=1e-4)
    assert len(written['images']) == 2


def whole_classifier(name, published):
    """The classifier with the published file's weights, by no command."""
    init_default_scope('mmpretrain')
    model = MODELS.build(Config(classifier_config(name)))
    model.load_state_dict(published.converted('classifier'))
    return model.eval()
