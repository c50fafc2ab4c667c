"""Settings are read without running the file, and compared."""
from mmvssd.reports.runs.settings import differences, flat, get, read_settings


def test_plain_values(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text('a = 1\nb = dict(c=[1, -2.5], d=dict(type="X", e=None), f=({"g": True}, ))\n'
                    'import os\nos.system("touch ran")\nh = os.getcwd()\ni = dict(**b)\n'
                    'j = [dict(k=1), dict(k=2)]\n')
    found = read_settings(file)
    assert found['a'] == 1
    assert found['b'] == dict(c=[1, -2.5], d=dict(type='X', e=None), f=[dict(g=True)])
    assert found['h'] == 'os.getcwd()'  # its text: nothing is run
    assert not (tmp_path / 'ran').exists()
    assert get(found, 'b.d.type') == 'X'
    assert get(found, 'b.d.type.more', 'none') == get(found, 'x', 'none') == 'none'
    assert dict(flat(found))['j.1.k'] == 2


def test_files_that_cannot_be_read(tmp_path):
    assert read_settings(tmp_path / 'absent.py') == {}
    for text in ('a = (', '\x00', 'a = 1\nb = = 2', '(' * 5000):
        (tmp_path / 'config.py').write_text(text)
        assert read_settings(tmp_path / 'config.py') == {}


def test_differences():
    first = dict(a=1, b=dict(c=2, d=[1, 2]), work_dir='x', e=dict(_scope_='mmdet'))
    second = dict(a=1, b=dict(c=3, d=[1, 2], f='new'), work_dir='y')
    rows = {row.key: row.values for row in differences([first, second])}
    assert rows == {'b.c': ('2', '3'), 'b.f': ('', "'new'")}
    assert differences([first, first]) == []
    assert len(differences([first, second, dict(a=2)])[0].values) == 3
