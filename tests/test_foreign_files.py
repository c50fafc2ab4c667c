"""What is under a checkpoint's name and is none has a sentence of its own."""
import io
import json
import os
import struct
import tarfile
import threading

import numpy as np
import pytest
import torch
from torch import nn

from mmvssd.checkpoint import load_pretrained, read_checkpoint, require_resumable
from mmvssd.converters.command import convert_file
from mmvssd.errors import CheckpointError
from mmvssd.families import FAMILIES
from mmvssd.foreign_files import kind_of
from mmvssd.models import VSSD


def archive():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w:gz'):
        pass
    return stream.getvalue()


def safetensors():
    header = json.dumps({'a': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}).encode()
    return struct.pack('<Q', len(header)) + header + b'\0' * 4


def npz():
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


CONTENTS = dict(
    empty=(b'', 'is empty'),
    html=(b'<!DOCTYPE html><html>Sign in</html>', 'a page of a web site'),
    xml=(b'<?xml version="1.0"?><Error>AccessDenied</Error>', 'a page of a web site'),
    later_html=(b'\n\n <HTML>404</HTML>', 'a page of a web site'),
    pointer=(b'version https://git-lfs.github.com/spec/v1\noid sha256:abc\n', 'git lfs pull'),
    json=(b'{"message": "Not Found"}', 'a text such as JSON'),
    text=(b'hello\n', 'is a text'),
    archive=(archive(), 'a compressed archive; unpack it'),
    safetensors=(safetensors(), 'a safetensors file'),
    hdf5=(b'\x89HDF\r\n\x1a\n', 'HDF5'),
    image=(b'\x89PNG\r\n\x1a\n\0\0', 'an image'),
    npz=(npz(), 'an archive with 0 entries named data.pkl'),
    noise=(bytes(range(256)), 'it is damaged, of another kind, or'))


@pytest.mark.parametrize('name', CONTENTS)
def test_other_files(tmp_path, name):
    content, message = CONTENTS[name]
    message = f'x.pth: cannot be read as a checkpoint.*{message}'
    (tmp_path / 'x.pth').write_bytes(content)
    for read in (read_checkpoint, require_resumable,
                 lambda path: convert_file(path, tmp_path / 'ours.pth')):
        with pytest.raises(CheckpointError, match=message):
            read(str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('zipped', [True, False])
def test_checkpoints_are_none_of_them(tmp_path, zipped):
    """The format before PyTorch 1.6 too, with settings that only the converter passes over."""
    class Settings:
        pass

    globals()['Settings'] = Settings
    Settings.__qualname__ = 'Settings'
    for value, read in ((dict(state_dict=dict(a=torch.ones(2))), read_checkpoint),
                        (dict(state_dict=dict(a=torch.ones(2)), args=Settings()),
                         lambda path: read_checkpoint(path, weights_alone=True))):
        torch.save(value, tmp_path / 'x.pth', _use_new_zipfile_serialization=zipped)
        assert kind_of(tmp_path / 'x.pth') is None
        assert torch.equal(read(str(tmp_path / 'x.pth'))['state_dict']['a'], torch.ones(2))


def test_what_is_no_file(tmp_path):
    (tmp_path / 'folder.pth').mkdir()
    os.symlink('nowhere.pth', tmp_path / 'dangling.pth')
    os.symlink('loop.pth', tmp_path / 'loop.pth')
    os.mkfifo(tmp_path / 'pipe.pth')
    cases = {'folder.pth': 'is a folder; name the checkpoint file in it',
             'dangling.pth': 'a link to nowhere.pth, which is missing',
             'loop.pth': 'a link to loop.pth', 'pipe.pth': 'is not an ordinary file',
             'gone.pth': 'no such checkpoint file', 'a' * 300: 'cannot be read'}
    for name, message in cases.items():
        for read in (read_checkpoint, require_resumable):
            with pytest.raises(CheckpointError, match=message):
                read(str(tmp_path / name))
    for name in ('', ' ', '\0bad'):
        message = 'is not a name of a checkpoint' if name.strip() else 'got .*a variable of your'
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(name)


FORMS = dict(
    none=(None, 'holds a NoneType, expected a dict'), number=(5, 'holds a int'),
    tensor=(torch.ones(1), 'holds a Tensor'), listed=([torch.ones(1)], 'holds a list'),
    no_state=(dict(state_dict=None), 'its state_dict is a NoneType'),
    state_list=(dict(state_dict=[1]), 'its state_dict is a list'),
    no_meta=(dict(state_dict={}, meta=None), 'its meta is a NoneType, expected a dict'),
    numbers=(dict(state_dict={1: torch.ones(1)}),
             '1 of its names is not a string, such as 1, a int'),
    plain_numbers=({5: torch.ones(1)}, '1 of its names is not a string'),
    byte_names=({b'x': torch.ones(1)}, "1 of its names is not a string, such as b'x', a bytes"),
    module=(dict(state_dict={}, model=nn.Linear(1, 1)), r'holds torch.nn.modules.linear.Linear, '
            r'which is not a part of weights.*save the state_dict\(\)'))


@pytest.mark.parametrize('name', FORMS)
def test_checkpoints_of_another_form(tmp_path, name):
    value, message = FORMS[name]
    torch.save(value, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=f'x.pth: .*{message}') as raised:
        read_checkpoint(tmp_path / 'x.pth')
    assert 'weights_only' not in str(raised.value)


@pytest.mark.parametrize('entries', [dict(optimizer=None), dict(message_hub=[]), dict(
    meta=dict(epoch=1)), dict(meta=dict(epoch='1', iter=2)), dict(meta=dict(epoch=-1, iter=2))])
def test_what_a_run_cannot_go_on_from(tmp_path, entries):
    torch.save(dict(dict(state_dict={}, optimizer={}, message_hub={}, meta=dict(epoch=1, iter=2)),
                    **entries), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='a run cannot be resumed from it'):
        require_resumable(str(tmp_path / 'x.pth'))


def test_a_torchscript_archive(tmp_path):
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / 'x.pth'))
    with pytest.raises(CheckpointError, match='a TorchScript archive, which is a program'):
        read_checkpoint(tmp_path / 'x.pth')


def test_names_reach_no_terminal_and_no_markup(tmp_path, capsys):
    """A name may hold what a terminal obeys, or what rich takes for markup."""
    nano = FAMILIES['vssd'].nano
    names = ['[/red]', '[link=http://there]click[/link]', '\x1b[31mred', '\x9b2J', '\x07']
    state = {f'backbone.{name}': torch.ones(1) for name in names}
    torch.save(dict(state_dict=state), tmp_path / '[x].pth')
    with pytest.raises(CheckpointError) as raised:
        load_pretrained(VSSD(nano), str(tmp_path / '[x].pth'), 'backbone.')
    assert str(raised.value).isprintable() or '\n' in str(raised.value)
    assert '\x1b' not in str(raised.value)
    assert '[/red]' in str(raised.value)
    state['layers.0.blocks.0.cpe1.bias'] = torch.ones(1)
    torch.save(dict(state_dict=state), tmp_path / '[x].pth')
    with pytest.raises(CheckpointError):
        convert_file(str(tmp_path / '[x].pth'), str(tmp_path / 'ours.pth'))
    out = capsys.readouterr().out
    assert '[/red]' in out
    assert '[link=http://there]' in out.replace('\n', '')
    assert not set(out) & set('\x1b\x9b\x07')


def test_reading_waits_for_no_pipe(tmp_path):
    """A pipe without a writer would be waited for for ever."""
    os.mkfifo(tmp_path / 'pipe.pth')
    done = threading.Event()

    def read():
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / 'pipe.pth')
        done.set()

    threading.Thread(target=read, daemon=True).start()
    assert done.wait(30)
