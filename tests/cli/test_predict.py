"""Prediction where the model is made up for it; trained ones are in tests/test_samples.py."""
import errno
import json
import os
import re
import resource
import runpy
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope
from pycocotools import mask as coco_mask

from mmvssd.cli import entries as json_entries
from mmvssd.cli import inferencers, predict_command
from mmvssd.cli import predict as predicting
from mmvssd.cli.inputs import ImageFiles
from mmvssd.cli.launch import load_config
from mmvssd.cli.predict import Options, predict
from mmvssd.errors import CheckpointError, ConfigError, DataError
from mmvssd.paths import project_root


def test_a_segmentors_classes_are_the_recipes(tmp_path, monkeypatch):
    """No data set is there, and the checkpoint names no classes, as a converted one."""
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    cfg = load_config('samples/upernet_vssd-nano_1xb8_digits.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=None)))
    with torch.no_grad():
        model.decode_head.conv_seg.bias[3] = 100.  # after the background, zero and one
    torch.save(dict(state_dict=model.state_dict()), 'whole.pth')
    mmcv.imwrite(np.zeros((64, 96, 3), np.uint8), 'black.png')

    written = predict(cfg, 'whole.pth', 'black.png', 'out', device='cpu')
    (entry, ) = json.loads(written.read_text())
    assert entry['image'] == 'black.png'
    (segment, ) = entry['segments']
    assert (segment['category'], segment['share']) == ('two', 1.)
    assert coco_mask.decode(segment['segmentation']).sum() == 64 * 96
    picture = mmcv.imread('out/pictures/black.png', channel_order='rgb')
    # half of the palette's colour, as the other half is the image
    assert np.median(picture, (0, 1)).tolist() == [127, 112, 12]


RECIPES = {'mmdet': 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py',
           'mmseg': 'samples/upernet_vssd-nano_1xb8_digits.py',
           'mmpretrain': 'samples/vssd-nano_1xb64_digits.py'}


@pytest.fixture(scope='module', params=RECIPES)
def untrained(request, tmp_path_factory):
    """A recipe of each host, and weights as they are drawn."""
    pytest.importorskip(request.param)
    cfg = load_config(RECIPES[request.param])
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=None)))
    file = tmp_path_factory.mktemp('untrained') / 'weights.pth'
    torch.save(dict(state_dict=model.state_dict()), file)
    return cfg, str(file)


def photograph(file, width=64, height=48):
    mmcv.imwrite(np.full((height, width, 3), 90, np.uint8), str(file))


def entries(out):
    return [Path(entry['image']).name
            for entry in json.loads((out / 'predictions.json').read_text())]


def test_whatever_one_image_does_the_others_are_done(untrained, tmp_path):
    folder, out = tmp_path / 'images', tmp_path / 'out'
    folder.mkdir()
    photograph(folder / 'a.jpg')
    for name in ('a.jpg.png', '[b].jpg', 'n' * 250 + '.jpg', 'esc\x1b[2J.jpg', 'bad\udcff.jpg'):
        shutil.copy(folder / 'a.jpg', folder / name)
    photograph(folder / 'one.png', 1, 1)
    (folder / 'b.jpg').write_bytes((folder / 'a.jpg').read_bytes()[:20])
    (folder / 'c.jpg').mkdir()
    (folder / 'd.jpg').touch()
    (folder / 'e.jpg').symlink_to('e.jpg')
    (folder / 'f.jpg').write_text('<html>')
    os.mkfifo(folder / 'g.jpg')
    whole = ['a.jpg', 'a.jpg.png', '[b].jpg', 'n' * 250 + '.jpg', 'esc\x1b[2J.jpg',
             'bad\udcff.jpg', 'one.png']
    with pytest.raises(DataError) as caught:
        predict(untrained[0], untrained[1], str(folder), str(out), device='cpu')
    assert sorted(entries(out)) == sorted(whole)
    assert len(list((out / 'pictures').iterdir())) == len(whole)
    assert {file.name for file in out.iterdir()} == {
        'pictures', 'predictions.json', 'predictions.settings.json'}
    for file in (out / 'pictures').iterdir():
        assert mmcv.imread(str(file)) is not None
    first, *lines = str(caught.value).splitlines()
    assert first == '6 of 13 images were left out:'
    assert [Path(line.partition(': ')[0]).name for line in lines] == [
        f'{name}.jpg' for name in 'bcdefg']
    assert 'b.jpg: cannot be read as an image' in lines[0]


def test_lines_and_huge_images(untrained, tmp_path):
    """An image of 5000 x 1 pixels took 24 GB, in the picture of a classifier."""
    folder, out = tmp_path / 'images', tmp_path / 'out'
    folder.mkdir()
    photograph(folder / 'a.png')
    photograph(folder / 'line.png', 5000, 1)
    photograph(folder / 'tall.png', 3, 2000)
    photograph(folder / 'large.png', 400, 300)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r'large.png: has 400 x 300 = 120,000 pixels, more than'):
        predict(untrained[0], untrained[1], str(folder), str(out), device='cpu',
                options=Options(max_pixels=10**5))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # 1 GiB
    # MMDetection's Resize leaves nothing of the narrow ones
    narrow = [] if untrained[0].default_scope == 'mmdet' else ['line.png', 'tall.png']
    assert entries(out) == ['a.png', *narrow]


class Inferencer:
    """In the place of a host's: an image is an entry, and its picture a square."""

    picture_suffix = None
    steps = ()

    side_by_side = False
    own_threshold = None

    def beside(self):
        return self

    def shape(self, prepared):
        return (3, 4, 4)

    def prepare(self, file):
        return file

    def forward(self, prepared):
        return prepared

    def entry(self, sample):
        return dict(found=sample)

    def picture(self, file, sample):
        return np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def run(tmp_path):
    for name in 'abcd':
        photograph(tmp_path / f'{name}.png')
    (tmp_path / 'out' / 'pictures').mkdir(parents=True)
    files = [tmp_path / f'{name}.png' for name in 'abcd']
    return predicting._Run(Inferencer(), ImageFiles(files), tmp_path / 'out',
                           Options(workers=0), dict(score_thr=0.3))


def test_a_full_disk_ends_it(run, monkeypatch):
    def fail(file, image):
        raise OSError(errno.ENOSPC, 'No space left on device')

    assert run.predict_all() == []
    monkeypatch.setattr(predicting, 'write_picture', fail)
    run.tried, run.results = set(), predicting.JsonList(run.results.file)
    assert run.predict_all() == []
    with pytest.raises(DataError, match=r'(?s)a.png: the picture is missing.*No space left on '
                                        r'device; make room.*3 images are not done, from .*b.png'):
        run.report([])
    assert entries(run.pictures.parent) == ['a.png']


def test_boxes_of_an_image_that_is_resized_twice():
    """They are put back by both steps' factors, as with an exported file."""
    structures = pytest.importorskip('mmdet.structures')
    from mmcv.transforms import Resize

    from mmvssd.cli.inferencers import Detector
    detector = Detector.__new__(Detector)
    for steps, expected in (([Resize((50, 20)), Resize((100, 80))], (10., 4.)),
                            ([Resize((100, 80))], (7., 7.))):
        sample = structures.DetDataSample(metainfo=dict(ori_shape=(20, 10), scale_factor=(7., 7.)))
        detector.inferencer = SimpleNamespace(pipeline=SimpleNamespace(transforms=steps))
        assert detector.batch_of((None, dict(data_samples=[sample]))) == dict(data_samples=[sample])
        assert sample.scale_factor == expected


def test_objects_are_counted(run, capsys):
    """If there is none, with what to try; also of a run that goes on."""
    run.inferencer.entry = lambda sample: dict(instances=[])
    run.finish()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith('0 objects with a score of 0.3 (--score-thr) or more, in 0 of 4 images.')
    assert '--score-thr 0.05' in last
    again = predicting._Run(run.inferencer, run.inputs, run.pictures.parent,
                            Options(workers=0, resume=True), {})
    again.finish()
    assert last in capsys.readouterr().out.splitlines()
    run.objects[1:3] = [3, 4]
    run.report([])
    assert capsys.readouterr().out.splitlines()[-1] == (
        '7 objects with a score of 0.3 (--score-thr) or more, in 2 of 4 images')
    run.objects[1:3] = [0, 1]
    run.report([])
    assert capsys.readouterr().out.splitlines()[-1].startswith('1 object with a score of')
    run.objects.clear()  # of a classifier there are none to count
    run.report([])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_threshold_that_is_low_already():
    assert '--score-thr 0' not in predicting._found([0, 0], 0.05)
    assert 'train longer' in predicting._found([0, 0], 0)


def test_the_recipes_own_threshold_is_told():
    """It cuts first: a lower --score-thr alone changes nothing."""
    from mmvssd.cli.inferencers import Detector
    detector = Detector.__new__(Detector)
    for test_cfg, own in ((dict(rpn={}, rcnn=dict(score_thr=0.05)),
                           ('model.test_cfg.rcnn.score_thr', 0.05)),
                          (dict(score_thr=0.2), ('model.test_cfg.score_thr', 0.2)),
                          (dict(max_per_img=300), None), (None, None)):
        detector.model = SimpleNamespace(test_cfg=test_cfg)
        assert detector.own_threshold == own
    own = 'model.test_cfg.rcnn.score_thr', 0.05
    said = predicting._found([0, 0], 0.02, own)
    assert 'itself drops scores below 0.05 (model.test_cfg.rcnn.score_thr). Try: ' in said
    assert '--cfg-options model.test_cfg.rcnn.score_thr=0.02, train longer' in said
    assert 'drops scores' in predicting._found([0, 2], 0.02, own)
    assert 'drops scores' not in predicting._found([0, 2], 0.3, own)
    assert '--score-thr 0.05' in predicting._found([0, 0], 0.3, own)


def test_predictions_on_other_images_are_not_replaced_in_silence(run, capsys):
    def predict(names, **options):
        files = [run.inputs.folders[0] / f'{name}.png' for name in names]
        predicting._Run(run.inferencer, ImageFiles(files), run.pictures.parent,
                        Options(workers=0, **options), {}).finish()
        return capsys.readouterr().out

    assert 'is replaced' not in predict('abc')
    assert 'is replaced' not in predict('abcd')  # all of them are predicted on again
    assert 'd.png' not in predict('d', resume=True)
    assert f'{run.results.file} holds 4 predictions, 3 on other images, and is replaced; ' \
        '--resume adds to it, --out-dir names another folder' in predict('d')
    run.results.file.write_text('[{"image": "x.png"}, {"im')
    assert 'holds 1 prediction, 1 on other images' in predict('d')
    run.results.file.write_text('something else')
    assert 'is replaced' not in predict('d')


@pytest.mark.parametrize(('content', 'foreign'), [
    ('{"info": {}}', True), ('[{"image_id": 1}]', True), ('[1, 2]', True), ('my notes', True),
    ('', False), ('\0\0', False), ('[]', False), ('[\n]', False), ('[\n {\n  "im', False),
    ('[{"image": "a.png"}]', False), ('[\n {\n  "image": "a.png",\n  "classes": [', False)])
def test_a_file_of_someone_else_is_not_replaced(tmp_path, content, foreign):
    (tmp_path / 'predictions.json').write_text(content)
    photograph(tmp_path / 'a.png')
    arguments = str(tmp_path / 'a.png'), tmp_path, Options(), {}
    if not foreign:
        assert predicting._find(*arguments).files == [tmp_path / 'a.png']
        return
    with pytest.raises(ConfigError, match='--out-dir: .*predictions.json is no list of'):
        predicting._find(*arguments)


def test_one_prediction_at_a_time_in_a_folder(tmp_path):
    """Two would write into each other's entries; one that is gone leaves nothing behind."""
    with predicting._alone_in(tmp_path), \
            pytest.raises(ConfigError, match='--out-dir: another prediction is writing into'), \
            predicting._alone_in(tmp_path):
        pass
    with predicting._alone_in(tmp_path):
        assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr('fcntl.flock', fail)
    with predicting._alone_in(tmp_path), predicting._alone_in(tmp_path):
        pass


def test_both_commands_keep_others_out(untrained, tmp_path, monkeypatch):
    photograph(tmp_path / 'a.png')
    monkeypatch.setattr(predicting, 'file_inferencer', lambda model, threshold: Inferencer())
    monkeypatch.setattr(predicting, 'model_settings', lambda model: {})
    out = tmp_path / 'out'
    out.mkdir()
    with predicting._alone_in(out):
        with pytest.raises(ConfigError, match='another prediction'):
            predict(*untrained, str(tmp_path / 'a.png'), str(out), device='cpu')
        with pytest.raises(ConfigError, match='another prediction'):
            predicting.predict_with_file('a.onnx', str(tmp_path / 'a.png'), str(out))
    assert not (out / 'predictions.json').exists()


@pytest.mark.parametrize(('arguments', 'images'), [
    (['r.py', 'c.pth', 'a.png', 'b.png'], ['a.png', 'b.png']),
    (['r.py', 'c.pth', '--out-dir', 'o', 'a.png'], ['a.png']),
    (['r.py', '--out-dir', 'o', 'c.pth', '--recursive', 'a', 'b'], ['a', 'b']),
    (['--model', 'm.onnx', 'a.png'], ['a.png']),
    (['a.png', '--model', 'm.onnx', 'b.png', '--tile', '512', 'c.png', 'd.png'],
     ['a.png', 'b.png', 'c.png', 'd.png'])])
def test_images_stand_anywhere(arguments, images, monkeypatch):
    """Shells write ``photos/*.jpg`` as many paths, and options may stand between the paths."""
    given = []
    monkeypatch.setattr(predict_command, 'load_config', lambda file, options: file)
    for name in ('predict', 'predict_with_file'):
        monkeypatch.setattr(predict_command, name, lambda *rest, **options: given.append(rest))
    monkeypatch.setattr('sys.argv', ['predict.py', *arguments])
    predict_command.main()
    out = 'o' if 'o' in arguments else 'predictions'
    model = ('m.onnx', ) if '--model' in arguments else ('r.py', 'c.pth')
    assert given == [(*model, images, out)]


def test_a_process_that_ends_while_it_draws_leaves_no_entry(run, monkeypatch):
    """Else the picture would be missing for good: --resume leaves out what has an entry."""
    def end(file, image):
        if file.name == 'b.png':
            raise KeyboardInterrupt

    monkeypatch.setattr(predicting, 'write_picture', end)
    with pytest.raises(KeyboardInterrupt):
        run.predict_all()
    assert entries(run.pictures.parent) == ['a.png']


def test_what_cannot_be_drawn_is_predicted_all_the_same(run, monkeypatch):
    def fail(self, file, sample):
        raise MemoryError('too large')

    monkeypatch.setattr(Inferencer, 'picture', fail)
    run.predict_all()
    with pytest.raises(DataError, match=r'd.png: the picture is missing: MemoryError: too large'):
        run.report([])
    assert entries(run.pictures.parent) == ['a.png', 'b.png', 'c.png', 'd.png']


@pytest.mark.usefixtures('usual_signals')
@pytest.mark.parametrize('number', predicting.SIGNALS)
def test_a_signal_ends_it_after_the_image_at_hand(run, monkeypatch, capfd, number):
    handler = signal.getsignal(number)

    def interrupted(self, files):
        if files[0].endswith('b.png'):
            os.kill(os.getpid(), number)
        return files

    monkeypatch.setattr(Inferencer, 'forward', interrupted)
    received = run.predict_all()
    assert received == [number]
    assert signal.getsignal(number) is handler
    assert entries(run.pictures.parent) == ['a.png', 'b.png']
    with pytest.raises(SystemExit) as ended:
        run.report(received)
    assert ended.value.code == 128 + number
    assert re.search(rf'{number.name}: stopped after 2 of 4 images; 2 images are not done, from '
                     r'.*c.png on', capfd.readouterr().err)


@pytest.mark.usefixtures('usual_signals')
@pytest.mark.parametrize(('second', 'error', 'status'), [
    (signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143),
    (signal.SIGHUP, SystemExit, 129)])
def test_a_second_signal_ends_it_at_once(run, monkeypatch, second, error, status):
    def interrupted(self, files):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), second)
        return files

    monkeypatch.setattr(Inferencer, 'forward', interrupted)
    with pytest.raises(error) as raised:
        run.predict_all()
    assert getattr(raised.value, 'code', None) == status


def test_a_signal_that_is_ignored_stays_so(run, monkeypatch):
    """As nohup has it."""
    def hang_up(self, files):
        os.kill(os.getpid(), signal.SIGHUP)
        return files

    monkeypatch.setattr(Inferencer, 'forward', hang_up)
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run.predict_all() == []
    finally:
        signal.signal(signal.SIGHUP, former)
    assert len(run.tried) == 4


@pytest.mark.parametrize(('options', 'message'), [
    (dict(score_thr=float('nan')), '--score-thr: got nan'),
    (dict(score_thr=1.5), '--score-thr: got 1.5'),
    (dict(score_thr=-1), '--score-thr: got -1'),
    (dict(out_dir=''), "--out-dir: got ''"),
    (dict(max_pixels=0), '--max-pixels: got 0'),
    (dict(batch_size=0), '--batch-size: got 0'),
    (dict(workers=-1), '--workers: got -1'),
    (dict(overlap=64), '--overlap: goes with --tile'),
    (dict(tile=64, overlap=64), '--overlap: got 64'),
    (dict(device='meta'), '--device: got meta, on which PyTorch cannot compute'),
    (dict(device='mps'), '--device: got mps, '),
    (dict(device='xpu'), '--device: got xpu, '),
    (dict(device=''), '--device: got nothing, '),
])
def test_options_that_do_not_fit(options, message):
    cfg = load_config(RECIPES['mmseg'])
    with pytest.raises(ConfigError, match=message):
        predict(cfg, 'weights.pth', 'a.png', out_dir=options.pop('out_dir', 'out'),
                device=options.pop('device', None), options=Options(**options))


def test_pictures_do_not_replace_the_images(untrained, tmp_path):
    images = tmp_path / 'out' / 'pictures'
    images.mkdir(parents=True)
    photograph(images / 'a.png')
    before = (images / 'a.png').read_bytes()
    with pytest.raises(ConfigError, match='the pictures would replace the images'):
        predict(*untrained, str(images), str(tmp_path / 'out'), device='cpu')
    assert (images / 'a.png').read_bytes() == before


def test_as_many_names_as_classes(untrained, tmp_path):
    photograph(tmp_path / 'a.png')
    weights = torch.load(untrained[1])
    weights['meta'] = dict(dataset_meta=dict(classes=('one', 'two')))
    torch.save(weights, tmp_path / 'two.pth')
    with pytest.raises(ConfigError, match=r'2 names of classes \(one, two\), but the head'):
        predict(untrained[0], str(tmp_path / 'two.pth'), str(tmp_path / 'a.png'),
                str(tmp_path / 'out'), device='cpu')


def test_names_in_another_order_than_the_recipes(untrained, tmp_path, monkeypatch):
    """The checkpoint's are right for its weights: they are used, and the other order is told of."""
    lines = []
    monkeypatch.setattr(inferencers, 'print_log', lambda line, **_: lines.append(line))
    cfg, weights = load_config(untrained[0].filename), torch.load(untrained[1])
    photograph(tmp_path / 'a.png')
    init_default_scope(cfg.default_scope)
    data = cfg.test_dataloader.dataset
    names = list((data.get('metainfo') or DATASETS.build(dict(data, lazy_init=True)).metainfo)
                 ['classes'])

    def of(classes):
        weights['meta'] = dict(dataset_meta=dict(classes=classes))
        torch.save(weights, tmp_path / 'x.pth')
        return predict(cfg, str(tmp_path / 'x.pth'), str(tmp_path / 'a.png'),
                       str(tmp_path / 'out'), device='cpu')

    of(names)
    of([f'the {name}' for name in names])
    assert lines == []
    of(names[::-1])
    assert len(lines) == 1
    assert f"number 0 is '{names[-1]}' in the checkpoint and '{names[0]}' in the" in lines[0]
    for classes in (len(names), names[0]):
        with pytest.raises(CheckpointError, match='x.pth: the classes of its meta.dataset_meta ar'):
            of(classes)


def test_a_large_label_map_is_made_small_and_enlarged(tmp_path, monkeypatch):
    """The scores of all classes at once would need gigabytes."""
    pytest.importorskip('mmseg')
    cfg = load_config(RECIPES['mmseg'])
    init_default_scope(cfg.default_scope)
    model = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=None)))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    mmcv.imwrite(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8),
                 str(tmp_path / 'a.png'))

    def labels():
        written = predict(cfg, str(tmp_path / 'weights.pth'), str(tmp_path / 'a.png'),
                          str(tmp_path / 'out'), device='cpu')
        (entry, ) = json.loads(written.read_text())
        assert sum(found['share'] for found in entry['segments']) == pytest.approx(1)
        return {found['category']: coco_mask.decode(found['segmentation'])
                for found in entry['segments']}

    whole = labels()
    monkeypatch.setattr(json_entries, 'LARGEST_SCORES', 11 * 48 * 64)
    small = labels()
    assert {mask.shape for mask in small.values()} == {(96, 128)}
    # squares of 2 x 2 pixels
    assert all((mask[::2, ::2] == mask[1::2, 1::2]).all() for mask in small.values())
    agreed = sum((whole[name] * small[name]).sum() for name in whole.keys() & small.keys())
    assert agreed > 0.7 * 96 * 128


def test_batches_and_threads_give_the_predictions_of_single_images(untrained, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(7):
        shape = (64, 96, 3) if number % 3 else (80, 64, 3)
        mmcv.imwrite(random.integers(0, 255, shape, np.uint8), str(folder / f'{number}.png'))
    (folder / '5.png').write_text('<html>')

    def run(name, **options):
        with pytest.raises(DataError, match=r'1 of 7 images was left out:\n.*5.png: cannot be'):
            predict(*untrained, str(folder), str(tmp_path / name), device='cpu',
                    options=Options(score_thr=0, **options))
        entries = json.loads((tmp_path / name / 'predictions.json').read_text())
        return {entry.pop('image'): next(iter(entry.values())) for entry in entries}

    expected = run('single', workers=0)
    assert len(expected) == 6
    for options in (dict(batch_size=3, workers=0), dict(batch_size=2, workers=2),
                    dict(workers=3)):
        results = run('other', **options)
        assert results.keys() == expected.keys()
        for name, found in results.items():
            # scores that are alike may be in another order
            for key in found[0].keys() & {'score', 'share'}:
                # and where two classes are as likely, a pixel or two in another segment
                np.testing.assert_allclose(
                    sorted(one[key] for one in found),
                    sorted(one[key] for one in expected[name]),
                    atol=3 / (64 * 80) if key == 'share' else 1e-4)
        assert len(list((tmp_path / 'other' / 'pictures').iterdir())) == 6


@pytest.mark.usefixtures('usual_signals')
def test_a_run_is_resumed(untrained, tmp_path, monkeypatch):
    folder, out = tmp_path / 'images', tmp_path / 'out'
    folder.mkdir()
    for name in 'abcd':
        photograph(folder / f'{name}.png')
    (folder / 'b.png').write_text('<html>')
    write, written = predicting.write_picture, []

    def interrupted(file, picture):
        written.append(file.name)
        write(file, picture)
        if file.name == 'c.png' and written.count('c.png') == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(predicting, 'write_picture', interrupted)

    def run(**options):
        predict(*untrained, str(folder), str(out), device='cpu', options=Options(**options))

    with pytest.raises(SystemExit):
        run(resume=True)
    assert entries(out) == ['a.png', 'c.png']
    with pytest.raises(ConfigError, match='were made with another score-thr'):
        run(resume=True, score_thr=0.5)
    with pytest.raises(DataError, match='1 of 4 images was left out'):
        run(resume=True)
    assert entries(out) == ['a.png', 'c.png', 'd.png']
    assert written == ['a.png', 'c.png', 'd.png']
    photograph(folder / 'b.png')
    run(resume=True)
    assert entries(out) == ['a.png', 'c.png', 'd.png', 'b.png']
    run()
    assert entries(out) == ['a.png', 'b.png', 'c.png', 'd.png']


def test_a_video(untrained, tmp_path):
    video = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 5,
                            (64, 48))
    if not video.isOpened():
        pytest.skip('this OpenCV writes no video')
    for number in range(3):
        video.write(np.full((48, 64, 3), 40 * number, np.uint8))
    video.release()
    written = predict(*untrained, str(tmp_path / 'clip.avi'), str(tmp_path / 'out'), device='cpu')
    assert [(Path(entry['image']).name, entry['frame'])
            for entry in json.loads(written.read_text())] == [
                ('clip.avi', 0), ('clip.avi', 1), ('clip.avi', 2)]
    pictures = sorted((tmp_path / 'out' / 'pictures' / 'clip.avi').iterdir())
    assert [file.stem for file in pictures] == ['000000', '000001', '000002']
    assert all(mmcv.imread(str(file)) is not None for file in pictures)


def test_tiles(untrained, tmp_path):
    """One tile gives what the whole image gives; of several the image's size is the JSON's."""
    image = str(tmp_path / 'a.png')
    mmcv.imwrite(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8), image)

    def run(**options):
        written = predict(*untrained, image, str(tmp_path / 'out'), device='cpu',
                          options=Options(score_thr=0, **options))
        (entry, ) = json.loads(written.read_text())
        assert mmcv.imread(str(tmp_path / 'out' / 'pictures' / 'a.png')).shape == (96, 128, 3)
        return entry[next(name for name in entry if name != 'image')]

    if untrained[0].default_scope == 'mmpretrain':
        with pytest.raises(ConfigError, match='--tile: is for detectors and segmentors'):
            run(tile=64)
        return
    whole, tiled = run(), run(tile=128)
    assert len(whole) == len(tiled)
    if untrained[0].default_scope == 'mmseg':
        assert whole == tiled
    else:
        for one, other in zip(whole, tiled):
            assert one['score'] == other['score']
            np.testing.assert_allclose(one['bbox'], other['bbox'], atol=1e-3)
    assert {file.name for file in (tmp_path / 'out').iterdir()} == {
        'pictures', 'predictions.json', 'predictions.settings.json'}
    with pytest.raises(ConfigError, match='--tile: a tile has 64 x 64 = 4,096 pixels, more than'):
        run(tile=64, max_pixels=4095)
    found = run(tile=64, overlap=16, batch_size=2, workers=2, max_pixels=2**22)
    assert {tuple(one['segmentation']['size']) for one in found} == {(96, 128)}
    if untrained[0].default_scope == 'mmseg':
        assert sum(one['share'] for one in found) == pytest.approx(1)
        assert sum(coco_mask.decode(one['segmentation']).astype(int) for one in found).min() == 1
    else:
        boxes = np.array([one['bbox'] for one in found])
        assert boxes[:, 2].max() > 100
        assert boxes.min() >= 0


class Killed(BaseException):
    """Leaves what was written as SIGKILL does."""


@pytest.mark.usefixtures('usual_signals')
def test_an_interrupted_image_goes_on_at_its_last_tile(untrained, tmp_path, monkeypatch):
    """With the same result to the last bit, wherever it was killed."""
    if untrained[0].default_scope == 'mmpretrain':
        pytest.skip('classifiers see an image as a whole')
    tifffile = pytest.importorskip('tifffile')
    image, out, tiles = tmp_path / 'a.tif', tmp_path / 'out', []
    tifffile.imwrite(image, np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8),
                     tile=(32, 32))
    kind = inferencers.HOSTS[untrained[0].default_scope]
    forward = kind.forward
    monkeypatch.setattr('mmvssd.cli.unfinished.SHARE', 1)  # seams are written after every tile

    def run(killed_at=99, **options):
        def killed(self, prepared):
            if len(tiles) >= killed_at and not options:
                raise Killed
            tiles.extend(prepared)
            if len(tiles) == killed_at and options:  # it is to end after this tile
                os.kill(os.getpid(), signal.SIGTERM)
            return forward(self, prepared)

        tiles.clear()
        monkeypatch.setattr(kind, 'forward', killed)
        predict(*untrained, str(image), str(out), device='cpu', options=Options(
            **{**dict(score_thr=0, tile=48, overlap=16, workers=0), **options}))
        pictures = {file.name: file.read_bytes() for file in (out / 'pictures').iterdir()}
        assert {file.name for file in out.iterdir()} == {
            'pictures', 'predictions.json', 'predictions.settings.json'}
        return (out / 'predictions.json').read_bytes(), pictures

    expected = run()
    assert len(tiles) == 4
    (out / 'predictions.json').unlink()
    with pytest.raises(Killed):
        run(1)
    with pytest.raises(SystemExit):
        run(2, resume=True)
    assert len(tiles) == 2
    assert run(resume=True) == expected
    assert len(tiles) == 1
    assert run(resume=True)[0] == expected[0]
    assert tiles == []


def test_a_large_image_takes_tiles(untrained, tmp_path):
    """Its pixels are not limited, nor is its picture as large."""
    if untrained[0].default_scope == 'mmpretrain':
        pytest.skip('classifiers see an image as a whole')
    image = str(tmp_path / 'a.png')
    mmcv.imwrite(np.full((40, 5000, 3), 90, np.uint8), image)
    options = Options(tile=512, max_pixels=2**20)
    written = predict(*untrained, image, str(tmp_path / 'out'), device='cpu', options=options)
    (entry, ) = json.loads(written.read_text())
    for one in entry.get('segments', entry.get('instances')):
        assert one['segmentation']['size'] == [40, 5000]
    assert mmcv.imread(str(tmp_path / 'out' / 'pictures' / 'a.png')).shape == (20, 2500, 3)


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--model', 'a.onnx', 'recipe.py', 'a.pth', 'images'],
     '--model: a.onnx has recipe and checkpoint in it; give only the images, got recipe.py a.pth'),
    (['--model', 'a.onnx', 'recipe.py', 'images'], 'give only the images, got recipe.py images'),
    (['--model', 'a.onnx', 'images', '--device', 'cpu'], '--device: does not go with --model'),
    (['--model', 'a.onnx', 'images', '--cfg-options', 'a=1'], '--cfg-options: does not go with'),
    (['recipe.py'], 'are required: CHECKPOINT, IMAGES'),
    (['recipe.py', 'a.pth'], 'are required: IMAGES'),
    (['--model', '', 'images'], '--model: got'),
    ([], 'are required: RECIPE, CHECKPOINT, IMAGES'),
    (['a.onnx', 'images'], 'a.onnx: an exported file goes with --model: --model a.onnx IMAGES'),
    (['--model', 'a.onnx'], 'are required: IMAGES')])
def test_arguments_that_do_not_go_together(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['predict.py', *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(project_root() / 'tools' / 'predict.py'), run_name='__main__')
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
