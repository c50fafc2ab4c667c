"""Where numbers that are not finite arise first, by module, image and batch."""
import pytest
import torch
from toy_training import WAYS, WHAT, Watch, build, same, toy, weights_of

from mmvssd.engine import FiniteCheckHook
from mmvssd.errors import NumericalFault


@pytest.mark.parametrize('way', WAYS)
def test_stop_names_where_it_arose(way, tmp_path, said):
    watch = Watch()
    runner = build(tmp_path, toy(way), FiniteCheckHook(), watch)
    with pytest.raises(NumericalFault, match=rf'(?s)^Iteration 3 of 4 \(epoch 1, learning rate '
                       rf'0.01\): {WHAT[way]} not finite; .*{WAYS[way][0]}'):
        runner.train()
    assert same(watch.before[-1][1], watch.state(runner)[1])
    assert weights_of(runner) == torch.cat(
        [watch.before[-1][0][name].flatten() for name, _ in runner.model.named_parameters()]
    ).tolist()
    message, = said
    assert ('Images with such numbers: folder/5.png\n' in message) == WAYS[way][1]
    assert '  Batch: folder/4.png, folder/5.png\n' in message
    assert 'default_hooks.finite_check.action=skip' in message


def test_broken_weights_are_named(tmp_path):
    """As of a checkpoint that a run without this hook left behind."""
    model = toy()
    with torch.no_grad():
        model.block.last.weight[0, 1] = torch.nan
    with pytest.raises(NumericalFault, match=r'block.last \(Conv2d\): .* its inputs were finite; '
                       r'weight of block.last \(Conv2d\) has 1 NaN and 0 Inf of 16 numbers itself'):
        build(tmp_path, model, FiniteCheckHook()).train()


def test_a_fault_that_does_not_come_back(tmp_path, said):
    model, steps = toy(), []

    def break_once(module, args, output):
        steps.append(0)
        return output * torch.nan if len(steps) == 2 else output

    model.breaking.register_forward_hook(break_once)
    with pytest.raises(NumericalFault, match=r'(?s)Iteration 2 of 4 .* Run again, the step gave '
                                             r'finite numbers in every module'):
        build(tmp_path, model, FiniteCheckHook()).train()
    assert 'Batch: folder/2.png, folder/3.png' in said[0]


def test_bad_images_are_named(tmp_path, said):
    model = toy()

    def spoil(preprocessor, arguments):
        for image, sample in zip(arguments[0]['inputs'], arguments[0]['data_samples']):
            if sample.img_path == 'folder/3.png':
                image[1, 2, 3] = torch.inf

    model.data_preprocessor.register_forward_pre_hook(spoil)
    with pytest.raises(NumericalFault, match=r'data_preprocessor \(ImgDataPreprocessor\): its '
                       r'output .* 1 Inf .*; its inputs had 0 NaN and 1 Inf of 108 numbers '
                       r'already'):
        build(tmp_path, model, FiniteCheckHook()).train()
    assert 'Images with such numbers: folder/3.png\n' in said[0]


@pytest.mark.slow
def test_compiled_models(tmp_path):
    torch._dynamo.reset()
    runner = build(tmp_path, toy('backward'), FiniteCheckHook(),
                   cfg=dict(compile=dict(backend='eager')))
    with pytest.raises(NumericalFault, match=WAYS['backward'][0]):
        runner.train()
