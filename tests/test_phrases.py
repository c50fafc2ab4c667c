"""Parts of messages."""
import ast
import re
from itertools import pairwise

import pytest

from mmvssd.engine.data.findings import Findings
from mmvssd.paths import project_root
from mmvssd.phrases import (
    counted,
    emptiness,
    first_and_more,
    left_out,
    none_of,
    numbered,
    of_all,
    short,
    similar,
    some,
    suggestion,
)

#: Numbers before nouns that are never one, are of something else, or are texts.
MANY = {
    "', '.join(map(str, batches))", 'at_once / step', 'bands.images', 'collected.checked',
    "counted(len(files), 'line')", 'entry.compress_size', 'entry.file_size', 'grid[0]',
    'images', 'key', "len(collected.arrays['diagonal'])", 'len(data.classes)', 'len(headers)',
    'len(known)', 'len(labels)', 'len(pickles)', 'len(tokens)', 'len(values)',
    'len(whole.items)', 'len(self.display)', 'len(x)', 'told',
    'model', 'named.count(name)', 'number', 'packed',
    'status.st_size', 'width * height',
}


def test_the_first_of_some_names():
    assert some(()) == ''
    assert some('abcde') == 'a, b, c, d, e'
    assert some([1, 2, 3, 4, 5, 6], '; ') == '1; 2; 3; 4; 5 ...'


def test_names_whose_end_a_list_would_hide():
    assert some(['tench, Tinca tinca', 'ruff', ' shark', '']) == (
        "'tench, Tinca tinca', ruff, ' shark', ''")
    assert first_and_more(['a, b', 'c']) == "'a, b', c"
    assert some(['a, b', 'c; d'], '; ') == "a, b; 'c; d'"


def test_how_many_there_are():
    assert [counted(number, 'image') for number in (0, 1, 2)] == ['0 images', '1 image', '2 images']
    assert [counted(number, 'entry') for number in (0, 1, 2)] == [
        '0 entries', '1 entry', '2 entries']
    assert first_and_more('abcde') == 'a, b, c, d, e'
    assert first_and_more('abcdefg') == 'a, b, c, d, e and 2 more'
    assert left_out(1, 3) == '1 of 3 images was left out:'
    assert left_out(2, 3) == '2 of 3 images were left out:'
    assert left_out(1, 1) == '1 image was left out:'
    assert [counted(number, noun) for number, noun in ((1, 'box'), (2, 'box'), (3, 'class'))] == [
        '1 box', '2 boxes', '3 classes']
    assert [of_all(*numbers, 'image') for numbers in ((1, 1), (0, 1), (2, 5), (5, 5))] == [
        '1 image', '0 of 1 image', '2 of 5 images', 'all 5 images']
    assert [none_of(count, 'image') for count in (1, 5)] == [
        'none of 1 image', 'none of the 5 images']


def test_words_around_a_number():
    text = '{} box[es] of [its|their] own [is no image|are no images], file[s] a[1].png and [x]'
    assert numbered(text, 1) == '1 box of its own is no image, file a[1].png and [x]'
    assert numbered(text, 2) == '2 boxes of their own are no images, files a[1].png and [x]'


def trees(*folders):
    """Return the parsed modules of folders below the project's root, by file."""
    return {file: ast.parse(file.read_text()) for folder in folders
            for file in sorted((project_root() / folder).rglob('*.py'))}


def test_every_finding_has_a_singular():
    """No finding says "1 images": the words that follow its number change with it."""
    # the noun is of the other number, or its text comes from elsewhere
    unchanging = re.compile(r'of .* (\w+ )?(cannot be|\{)|\{')
    texts = []
    for file, tree in trees(*(f'mmvssd/{folder}' for folder in (
            'engine/data', 'datasets', 'new_recipe', 'reports'))).items():
        nodes = list(ast.walk(tree))
        within = {part for node in nodes if isinstance(node, ast.JoinedStr)
                  for part in node.values}
        for node in nodes:
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = ''.join(str(part.value) if isinstance(part, ast.Constant) else '{}'
                           for part in parts)
            if node not in within and isinstance(parts[0], ast.Constant) and (
                    re.match(r'\{\} [a-z{]', text)):
                texts.append((file.name, text[3:]))
    assert len(texts) > 100
    for name, text in texts:
        changing = re.search(r'\[(e?s|[\w ]+\|[\w ]+)\]', text)
        assert changing or unchanging.match(text), (name, text)


def test_numbers_before_nouns_are_counted():
    """No message writes a noun in the plural behind a number that may be one."""
    nodes = [node for file, tree in trees('mmvssd', 'tools').items()
             if 'benchmarks' not in file.parts for node in ast.walk(tree)]
    nouns = {node.args[1].value for node in nodes
             if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'counted'
             and isinstance(node.args[1], ast.Constant)}
    assert len(nouns) > 20
    plural = re.compile(f' ({"|".join(counted(2, noun)[2:] for noun in nouns)})\\b')
    found = set()
    for node in nodes:
        for number, text in pairwise(node.values if isinstance(node, ast.JoinedStr) else ()):
            if isinstance(number, ast.FormattedValue) and isinstance(text, ast.Constant) and (
                    plural.match(text.value)):
                found.add(ast.unparse(number.value))
    constant = re.compile(r'[A-Z_]+( // 10 \*\* 6)?$')
    assert {one for one in found if not constant.match(one)} == MANY


@pytest.mark.parametrize(('name', 'known', 'expected'), [
    ('batch_siz', ['batch_size', 'dataset'], '; did you mean batch_size?'),
    ('TINY', ['tiny', 'small'], '; did you mean tiny?'),
    ('linear', ['Linear', 'LinearHeads', 'other', 'Lineal', 'Liner'],
     '; did you mean Linear or '),
    (3, ['tiny'], ''), ('x', [], ''), ('aaa', [7, 'aab'], '; did you mean aab?'),
])
def test_names_that_are_alike(name, known, expected):
    assert suggestion(name, known).startswith(expected)
    assert bool(similar(name, known)) == bool(expected)
    assert len(similar(name, known, most=1)) == bool(expected)


def test_names_that_begin_alike():
    archs = ['v0-tiny', 'v0-small', 'tiny-s2l5', 'small-s2l15', 'tiny-s1l8']
    assert suggestion('tinny', archs) == '; did you mean v0-tiny?'
    assert suggestion('tinny', archs, longer=True) == (
        '; did you mean v0-tiny or tiny-s1l8 or tiny-s2l5?')
    assert suggestion('Tiny', archs, longer=True).count('tiny-s') == 2
    assert suggestion('ti', ['tiny-s1l8'], longer=True) == ''
    assert suggestion('large', archs, longer=True) == ''
    many = [f'tiny-{number}-of-many' for number in range(9)]
    assert suggestion('tiny', many, longer=True).count('tiny') == 5


def test_long_values_are_cut():
    assert short('a') == "'a'"
    assert short('a' * 100) == "'" + 'a' * 56 + '...'
    assert len(short(list(range(100)), 80)) == 80


def test_empty_names():
    assert emptiness('a') is None
    assert emptiness(' ') == "got ' '; is a variable of your script not set?"


def test_what_a_finding_quotes_stays_as_it_is():
    findings = Findings()
    findings.stop('here', "metainfo.classes is the text 'box[es] [one|two].txt'")
    findings.stop('here', '{} image[s] [is|are] not there', 'a.jpg')
    text = findings.text()
    assert "'box[es] [one|two].txt'" in text
    assert '1 image is not there' in text
