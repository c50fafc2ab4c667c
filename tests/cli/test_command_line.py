"""What the command lines share: their arguments and how they end."""
import argparse

import pytest

from mmvssd.cli.command_line import add_recipe_arguments, run
from mmvssd.errors import CheckpointError, ConfigError, DataError


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


def test_errors_of_the_program_keep_their_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)
