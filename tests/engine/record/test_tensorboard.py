"""Event files hold the curves; none where there is no curve, and none without TensorBoard."""
import json
import sys

import pytest
from mmengine.config import Config
from mmengine.visualization import Visualizer

from mmvssd.engine.record import tensorboard


def visualizer(folder):
    """One that is not kept for other tests."""
    return Visualizer(save_dir=str(folder), vis_backends=[
        dict(type='LocalVisBackend'), dict(type='mmvssd.TensorboardVisBackend')])


def events(folder):
    return list(folder.glob('**/events.out.tfevents.*'))


def test_no_file_without_a_curve(tmp_path):
    writer = visualizer(tmp_path)
    writer.add_config(Config(dict(a=1)))
    writer.close()
    assert (tmp_path / 'vis_data' / 'config.py').is_file()
    assert not events(tmp_path)


def test_curves_and_config(tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    writer = visualizer(tmp_path)
    config = Config(dict(a=1))
    writer.add_config(config)
    writer.add_scalars(dict(loss=2.0), step=10)
    writer.add_scalars({'loss': 1.0, 'coco/bbox_mAP': 0.5}, step=20)
    writer.close()
    (file, ) = events(tmp_path)
    found = accumulator.EventAccumulator(str(file)).Reload()
    assert [(e.step, e.value) for e in found.Scalars('loss')] == [(10, 2.0), (20, 1.0)]
    assert [(e.step, e.value) for e in found.Scalars('coco/bbox_mAP')] == [(20, 0.5)]
    text, = found.Tensors('config/text_summary')[0].tensor_proto.string_val
    assert config.pretty_text.strip().encode() in text


def test_without_tensorboard(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(tensorboard, 'print_log', lambda message, **kwargs: said.append(message))
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    for name in [name for name in sys.modules if name.startswith('torch.utils.tensorboard')]:
        monkeypatch.delitem(sys.modules, name)
    writer = visualizer(tmp_path)
    writer.add_config(Config(dict(a=1)))
    for step in range(3):
        writer.add_scalars(dict(loss=1.0), step=step)
    writer.close()
    assert not events(tmp_path)
    (message, ) = said
    assert 'TensorBoard cannot be used' in message
    assert 'pip install tensorboard' in message
    lines = (tmp_path / 'vis_data' / 'scalars.json').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [0, 1, 2]
