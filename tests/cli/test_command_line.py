"""What the command lines share: their arguments and how they end."""
import argparse
import errno
import os
import signal
import subprocess
import sys

import pytest
from mmengine.logging import MMLogger

from mmvssd.cli.command_line import (
    add_recipe_arguments,
    add_run_arguments,
    named,
    run,
    say_if_ended,
)
from mmvssd.engine.record.signals import EndingSignals
from mmvssd.errors import CheckpointError, ConfigError, DataError
from mmvssd.files import written_whole


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    return parser


def test_settings(parser):
    args = parser.parse_args(['recipe.py', '--cfg-options', 'a.b=1', 'c=x=y', 'd='])
    assert args.cfg_options == {'a.b': 1, 'c': 'x=y', 'd': ''}


@pytest.mark.parametrize('given', ['foo', '=5'])
def test_settings_without_key_or_value(parser, capsys, given):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(['recipe.py', '--cfg-options', 'a=1', given])
    assert ended.value.code == 2
    assert f"--cfg-options: got '{given}', expected KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize('kind', [CheckpointError, ConfigError, DataError])
def test_errors_of_the_input_are_one_message(capsys, kind):
    def main():
        raise kind('what to do')

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f'{kind.__name__}: what to do\n'


def test_details_of_the_hosts_are_off_for_every_command(monkeypatch):
    done = []
    monkeypatch.setattr('mmvssd.cli.command_line.keep_details_off', lambda: done.append('off'))
    run(lambda: done.append('run'))
    assert done == ['off', 'run']


def test_a_message_that_quotes_another_is_whole(capsys):
    """Only the traceback of a data loader's worker is cut off, up to its message."""
    for given, said in (('2 images: DataError: broken', '2 images: DataError: broken'),
                        ('Caught DataError in DataLoader worker process 0.\nTraceback\n'
                         'mmvssd.errors.DataError: broken\n', 'broken')):
        def main(given=given):
            raise DataError(given)

        with pytest.raises(SystemExit):
            run(main)
        assert capsys.readouterr().err == f'DataError: {said}\n'


@pytest.mark.parametrize('error', [ZeroDivisionError('by zero'), SyntaxError('invalid syntax')],
                         ids=repr)
def test_other_errors_keep_their_traceback(capsys, tmp_path, error):
    """On the terminal and in the log; what to do comes last."""
    def main():
        raise error

    MMLogger.get_instance(f'run-{type(error).__name__}', log_file=str(tmp_path / 'log'))
    with pytest.raises(SystemExit) as raised:
        run(main)
    assert raised.value.code == 1
    said = capsys.readouterr().err
    assert f'{type(error).__name__}: {error}' in said
    assert 'raise error' in said
    last = said.splitlines()[-1]
    assert last.startswith(f'{type(error).__name__}, see above. If one of your settings')
    assert last.endswith(' issue with this trace.')  # there is no record of a run
    assert 'raise error' in (tmp_path / 'log').read_text()


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EFBIG, errno.EROFS])
def test_a_full_disk_is_one_message(capsys, tmp_path, number):
    """Of a file that was being written, of one that the error names, and of a run's."""
    def write():
        with written_whole(tmp_path / 'new.pth'):
            raise OSError(number, os.strerror(number))

    def dump():
        raise OSError(number, os.strerror(number))

    log = tmp_path / 'run' / 'log'
    log.parent.mkdir()
    for main, place in ((write, f': {tmp_path}/new.pth'), (dump, f' (a file in {log.parent})')):
        MMLogger.get_instance(f'run-{number}', log_file=str(log))
        with pytest.raises(SystemExit) as raised:
            run(main)
        assert raised.value.code == 2
        assert capsys.readouterr().err == (f'OSError: {os.strerror(number)}{place}; make room, or '
                                           'name another folder\n')
        assert f'in {main.__name__}' in log.read_text()
    assert sorted(tmp_path.iterdir()) == [log.parent]


def test_the_record_of_the_run_that_stopped_is_named(capsys, tmp_path):
    def main():
        raise ZeroDivisionError

    for number, name in enumerate(('run.json', 'run_2.json')):  # of one that trains, then tests
        (tmp_path / name).write_text('{}')
        os.utime(tmp_path / name, (number, number))
    MMLogger.get_instance('run-with-a-record', log_file=str(tmp_path / 'log'))
    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr().err.endswith(f' with this trace and {tmp_path / "run_2.json"}.\n')


@pytest.mark.parametrize(('error', 'number', 'said'), [
    (KeyboardInterrupt(), signal.SIGINT, 'Interrupted.\n'),
    (SystemExit(128 + signal.SIGTERM), signal.SIGTERM, 'Ended by SIGTERM.\n'),
    (SystemExit(128 + signal.SIGHUP), signal.SIGHUP, 'Ended by SIGHUP.\n')])
def test_signals_end_without_a_traceback(capsys, error, number, said):
    """MMEngine may have turned one into an error of a config's syntax, which it is not."""
    def interrupted():
        raise error

    def disguised():
        try:
            interrupted()
        except:  # noqa: E722
            raise SyntaxError('Failed to parse the config file')  # noqa: B904

    for main in (interrupted, disguised):
        with pytest.raises(SystemExit) as raised:
            run(main)
        assert raised.value.code == 128 + number
        assert capsys.readouterr().err == said


@pytest.mark.usefixtures('usual_signals')
@pytest.mark.parametrize(('number', 'said'), [
    (signal.SIGINT, 'Interrupted'), (signal.SIGTERM, 'Ended by SIGTERM'),
    (signal.SIGHUP, 'Ended by SIGHUP')])
@pytest.mark.parametrize('after_a_run', [False, True])
def test_a_signal_outside_of_a_run(capsys, number, said, after_a_run):
    """As while data sets are built; a run has handlers of its own, and a last word."""
    def main():
        say_if_ended(lambda: 'nothing was written')
        if after_a_run:
            one = EndingSignals(lambda _: None, lambda: None)
            one.watch()
            one.leave()
        os.kill(os.getpid(), number)
        signal.getsignal(number)  # Python calls handlers between two of its steps
        raise AssertionError

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as raised:
        run(main)
    assert raised.value.code == 128 + number
    assert capsys.readouterr().err == f'{said}: nothing was written.\n'
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures('usual_signals')
def test_a_signal_in_a_run_is_told_by_the_run(capsys):
    def main():
        say_if_ended(lambda: 'nothing was written')
        one = EndingSignals(print, lambda: None)
        one.watch()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.getsignal(signal.SIGTERM)
        finally:
            one.leave()

    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr() == ('ended by SIGTERM\n', 'Ended by SIGTERM.\n')


@pytest.mark.parametrize('kind', ['print', 'show', 'another pipe'])
def test_a_reader_that_has_gone(kind):
    """As ``head``: it ends a command without a word, or lets one that shows its results go on."""
    code = ('import os, sys\n'
            'from mmvssd.cli.command_line import run, show\n'
            'def main():\n'
            '    sys.stdin.read()\n'
            f'    if {kind!r} == "another pipe": raise BrokenPipeError\n'
            f'    {"print" if kind == "print" else "show"}("text" * 9999)\n'
            '    print("went on", file=sys.stderr)\n'
            'run(main)\n')
    with subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))) as process:
        if kind != 'another pipe':
            process.stdout.close()
        process.stdin.close()
        errors = process.stderr.read()
    status, said = {'print': (128 + signal.SIGPIPE, ''), 'show': (0, 'went on\n'),
                    'another pipe': (1, 'BrokenPipeError, see above.')}[kind]
    assert process.returncode == status
    assert said in errors
    assert ('Traceback' in errors) == (kind == 'another pipe')


def test_an_exit_of_another_kind_hides_no_error(capsys):
    def fail():
        try:
            sys.exit(1)
        except SystemExit:
            raise ZeroDivisionError  # noqa: B904

    with pytest.raises(SystemExit) as raised:
        run(fail)
    assert raised.value.code == 1
    assert 'ZeroDivisionError, see above' in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--work-dir', '--resume'])
def test_an_empty_option_is_a_variable_that_is_not_set(capsys, option):
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument('--resume', type=named, nargs='?', const='auto')
    assert parser.parse_args(['recipe.py', '--resume']).resume == 'auto'
    for empty in ('', '  '):
        with pytest.raises(SystemExit):
            parser.parse_args(['recipe.py', option, empty])
        assert f'argument {option}: got {empty!r}; is a variable' in capsys.readouterr().err
