"""Charts are drawn of whatever the data hold."""
import base64
import html
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from mmvssd.reports import charts


def drawn(chart):
    kind, _, content = chart.uri.partition(',')
    assert kind == 'data:image/svg+xml;base64'
    return ET.fromstring(base64.b64decode(content))


def elements(chart, name):
    return list(drawn(chart).iter(f'{{http://www.w3.org/2000/svg}}{name}'))


@pytest.mark.parametrize('values', [
    [5], [5, 5], [0, 0], [1, 2, 3], list(range(1000)), [0.5, 0.7], [-3, 4]])
def test_histograms(values):
    assert elements(charts.histograms('title', {'train': values, 'val': []}, 'pixels'), 'path')


def test_histograms_of_nothing_and_of_wide_ranges():
    assert charts.histograms('title', {'train': []}, 'x') is None
    assert elements(charts.histograms('title', {'train': [1, 1e6]}, 'x', log=True), 'path')
    assert elements(charts.histograms('title', {'train': [7, 7]}, 'x', log=True), 'path')


def test_names_that_matplotlib_or_xml_would_take_for_theirs():
    names = ['a $x$ b', '<script>alert(1)</script>', '&amp;', '日本', '']
    line = charts.Line([1, 2], [3, 4])
    assert drawn(charts.lines('t', {f'{name}{i}': line for i, name in enumerate(names)}, 'x'))
    assert drawn(charts.matrix('t', np.eye(5), names))
    assert drawn(charts.histograms('t', {name: [1, 2] for name in names}, 'x'))


def legend(chart):
    """Return the names in a chart's legend, which matplotlib notes beside their shapes."""
    whole = base64.b64decode(chart.uri.partition(',')[2]).decode()
    names = re.findall('<!-- (.*?) -->', whole.partition('id="legend_1"')[2])
    return [html.unescape(name).strip() for name in names]


NAMES = {'_background_': '_background_', '_': '_', '__': '__', '_$x$': r'_$x$', '\udce9': r'\udce9',
         '_\ud800': r'_\ud800', '\x1b[31m': r'\x1b[31m', '\x00': r'\x00', 'a\nb': r'a\nb',
         '\ufffe': r'\ufffe', '\u202e': r'\u202e', 7: '7'}


def test_legends_name_every_line():
    line = charts.Line([1, 2], [3, 4])
    shown = list(NAMES.values())
    # below the chart, and in it
    assert sorted(legend(charts.lines('t', dict.fromkeys(NAMES, line), 'x'))) == sorted(shown)
    assert legend(charts.lines('t', dict.fromkeys(list(NAMES)[3:7], line), 'x')) == shown[3:7]
    assert legend(charts.histograms('t', dict.fromkeys(NAMES, (1, 2)), 'x')) == shown
    assert drawn(charts.matrix('t', np.eye(len(NAMES)), list(NAMES)))


def test_lines_of_many_points_are_thinned_out():
    long = charts.lines('t', {'a': charts.Line(range(100_000), np.sin(range(100_000)))}, 'x')
    assert len(long.uri) < 200_000
    assert charts.lines('t', {'a': charts.Line([], [])}, 'x') is None
    assert elements(charts.lines('t', {'a': charts.Line([1], [2.0])}, 'x'), 'use')  # its marker


@pytest.mark.parametrize('count', [1, 10, 40, 100])
def test_matrices(count):
    assert drawn(charts.matrix('t', np.zeros((count, count)), [f'c{i}' for i in range(count)]))


def test_a_name_has_the_same_colour_in_all_charts():
    line, none = charts.Line([1, 2], [3, 4]), charts.Line([], [])
    alone = drawn(charts.lines('t', {'a': none, 'b': line}, 'x'))
    both = drawn(charts.lines('t', {'a': line, 'b': line}, 'x'))
    orange = 'stroke: #ff7f0e'
    for root in (alone, both):
        assert any(orange in element.get('style', '') for element in root.iter())
