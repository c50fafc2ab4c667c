"""The text of a config is formatted once as long as the config stays the same."""
import pytest
from mmengine.config import Config, config
from yapf.yapflib.yapf_api import FormatCode

from mmvssd.compat import config_texts, patching
from mmvssd.paths import configs_dir

RECIPE = 'samples/vssd-nano_1xb64_digits.py'


@pytest.fixture
def formatted(monkeypatch):
    """Return the list of texts that yapf gets; nothing is kept of what ran before."""
    seen = []

    def format_code(text, **options):
        seen.append(text)
        return FormatCode(text, **options)

    monkeypatch.setattr(config, 'FormatCode', format_code)
    config_texts.apply()
    yield seen
    config_texts._formatted.cache_clear()


def test_the_same_config_is_formatted_once(formatted, tmp_path):
    cfg = Config(dict(b=dict(d=[1, dict(e='x')]), a=2))
    text = cfg.pretty_text
    cfg.dump(tmp_path / 'config.py')
    assert cfg.dump() == text == (tmp_path / 'config.py').read_text()
    assert Config(cfg.to_dict()).pretty_text == text
    assert len(formatted) == 1


def test_a_config_that_changes_gets_its_new_text(formatted):
    cfg = Config(dict(b=dict(d=[1, dict(e='x')]), a=2))
    before = cfg.pretty_text
    cfg.b.d[1].e = 'y'
    assert cfg.pretty_text == before.replace("'x'", "'y'") != before
    cfg.b.d.append(3)
    assert '3' in cfg.pretty_text
    cfg.b.d.pop()
    cfg.b.d[1].e = 'x'
    assert cfg.pretty_text == before
    assert len(formatted) == 3


def test_the_text_is_that_of_yapf(formatted, monkeypatch):
    cfg = Config.fromfile(configs_dir() / RECIPE)
    kept = [cfg.pretty_text for _ in range(2)]
    assert len(formatted) == 1
    monkeypatch.setattr(config, 'FormatCode', FormatCode)
    assert kept == [cfg.pretty_text] * 2


def test_styles_are_told_apart(formatted):
    text = 'a = [11111, 22222, 33333]\n'
    wide, narrow = (config.FormatCode(text, style_config=dict(
        based_on_style='pep8', column_limit=limit))[0] for limit in (80, 20))
    assert wide == text != narrow
    assert len(formatted) == 2


def test_what_yapf_refuses_is_refused_each_time(formatted):
    cfg = Config(dict(a=object()))  # its text is no Python
    for _ in range(2):
        with pytest.raises(SyntaxError, match='Failed to format the config'):
            cfg.pretty_text  # noqa: B018 - a property that formats
    assert len(formatted) == 2


def test_few_texts_are_kept(formatted):
    for number in range(config_texts.KEPT + 1):
        Config(dict(a=number)).pretty_text  # noqa: B018
    assert config_texts._formatted.cache_info().currsize == config_texts.KEPT
    assert hasattr(config.FormatCode, patching._MARK)
