"""The site of the documents: it builds without a warning, and says what there is, no more."""
import html
import importlib
import inspect
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from mmvssd.analysis.published_numbers import POINTS, SERIES
from mmvssd.families import FAMILIES, every_arch
from mmvssd.paths import project_root
from mmvssd_kernels import numba_support

ROOT = project_root()
PAGES = [*sorted((ROOT / 'docs').rglob('*.md')), ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
         ROOT / 'CHANGELOG.md', *sorted((ROOT / 'configs').glob('*/README.md')),
         ROOT / 'kernels' / 'README.md']
#: An arch, also in the name of a recipe or a checkpoint.
ARCH = re.compile(r'(?<![\w.-])(?:[\w-]+_)?((?:vssd|vmamba)-[a-z0-9]+(?:-[a-z0-9]+)*)')
#: Named in documents, but read by the tests only.
OF_TESTS = {'MMVSSD_TEST_DATA', 'MMVSSD_TIMM'}
WIDTHS = (1280, 400)
#: Has a page tell the one around it how wide it is, and which pictures are not shown.
MEASURE = """<script>
addEventListener('load', () => setTimeout(() => parent.postMessage(JSON.stringify({
  page: location.pathname.split('/').at(-1), width: innerWidth,
  needed: document.documentElement.scrollWidth,
  broken: [...document.images].filter(one => one.complete && !one.naturalWidth).length,
}), '*'), 500));
</script>"""


@pytest.fixture(scope='module')
def parts():
    """The modules that write the site."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'path', [str(ROOT / 'tools' / 'docs'), *sys.path])
        names = ('environment', 'hooks', 'reference')
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site, built as by tools/docs.sh; a warning stops that."""
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)], cwd=ROOT,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text_of(page):
    return html.unescape(re.sub('<[^>]+>', '', page.read_text(encoding='utf-8')))


def settings():
    return yaml.safe_load((ROOT / 'mkdocs.yml').read_text(encoding='utf-8'))


def leaves(nav):
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else leaves(value)


def test_a_broken_link_or_an_orphan_stops_the_build():
    found = settings()
    assert found['strict'] is True
    assert found['validation'] == dict.fromkeys(
        ['omitted_files', 'absolute_links', 'unrecognized_links', 'anchors'], 'warn')


def test_the_navigation_has_every_page(parts):
    hooks = parts['hooks']
    pages = {str(page.relative_to(ROOT / 'docs')) for page in (ROOT / 'docs').rglob('*.md')}
    listed = list(leaves(settings()['nav']))
    assert len(listed) == len(set(listed))
    assert set(listed) == pages | set(hooks.OUTSIDE) | set(hooks.PAGES)
    assert {str(ROOT / source) for source in hooks.OUTSIDE.values()} == {
        str(page) for page in PAGES if not page.is_relative_to(ROOT / 'docs')}


@pytest.mark.parametrize(('page', 'link', 'in_site'), [
    ('README.md', '../CONTRIBUTING.md', 'CONTRIBUTING.md'),
    ('README.md', '../kernels/README.md', 'kernels/README.md'),
    ('start.md', 'docs/quickstart.jpg', 'quickstart.jpg'),
    ('start.md', 'docs/README.md', 'README.md'),
    ('kernels/README.md', '../docs/gpu.md', '../gpu.md'),
    ('configs/detection/README.md', '../../README.md', '../../start.md'),
    ('contributing/code_map.md', '../../mmvssd/families.py', '../mmvssd/families.py'),
    ('contributing/code_map.md', 'code_map.svg', 'code_map.svg'),
])
def test_links_lead_in_the_site_where_they_lead_in_the_repository(parts, page, link, in_site):
    assert parts['hooks'].link_in_site(page, link) == in_site


def test_variables_of_the_environment(parts):
    """Those of the code have a meaning, which building the page checks; documents name no other."""
    environment = parts['environment']
    page = environment.environment_page()
    assert '| `MMVSSD_KERNEL` |' in page
    known = environment.variables().keys() | OF_TESTS
    named = {name for file in PAGES
             for name in re.findall(r'\bMMVSSD_[A-Z_]+\b', file.read_text(encoding='utf-8'))}
    assert 'MMVSSD_PATCHES' in named
    assert named <= known


def test_the_guide_to_the_ops_has_their_variables(parts):
    guide = (ROOT / 'kernels' / 'README.md').read_text(encoding='utf-8')
    read = [name for name, files in parts['environment'].variables().items()
            if any(file.startswith('kernels/') for file in files)]
    assert len(read) > 4
    assert [name for name in read if f'`{name}' not in guide] == []


def test_the_folder_of_compiled_kernels_is_the_one_that_documents_name(parts, monkeypatch):
    monkeypatch.delenv('MMVSSD_KERNEL_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', '/caches')
    name, = numba_support._folder().relative_to('/caches').parts
    meanings = parts['environment'].MEANINGS['Backbones and ops']
    assert f'`{name}` below `XDG_CACHE_HOME`' in meanings['MMVSSD_KERNEL_CACHE']
    guide = (ROOT / 'kernels' / 'README.md').read_text(encoding='utf-8')
    assert f'`~/.cache/{name}`' in guide


def test_a_variable_without_a_meaning_stops_the_build(parts, monkeypatch, tmp_path):
    environment = parts['environment']
    (tmp_path / 'new.py').write_text('import os\nNAME = "MMVSSD_NEW"\nos.environ.get(NAME)\n'
                                     'os.environ["MMVSSD_OTHER"]\n')
    (tmp_path / 'new.sh').write_text(': "${MMVSSD_THIRD:=1}"\n')
    monkeypatch.setattr(environment, 'ROOT', tmp_path)
    monkeypatch.setattr(environment, 'SOURCES', ('.', ))
    assert environment.variables() == {'MMVSSD_NEW': {'new.py'}, 'MMVSSD_OTHER': {'new.py'},
                                       'MMVSSD_THIRD': {'new.sh'}}
    with pytest.raises(RuntimeError, match='not described.*MMVSSD_NEW'):
        environment.environment_page()


def test_tools_that_documents_name_exist_and_every_tool_is_named(parts):
    named = {}
    for page in PAGES:
        for path in re.findall(r'(?<![\w/])(?:\.\./)*tools/((?:\w+/)*[\w-]+\.(?:py|sh))',
                               page.read_text(encoding='utf-8')):
            named.setdefault(path, page.name)
    there = {path for paths in parts['reference'].tools().values() for path in paths}
    missing = {path: page for path, page in named.items() if not (ROOT / 'tools' / path).is_file()}
    assert missing == {'analysis_tools/NAME.py': 'CONTRIBUTING.md'}  # a walk that makes one
    texts = ' '.join(page.read_text(encoding='utf-8') for page in PAGES)
    assert [path for path in sorted(there) if path.rpartition('/')[2] not in texts] == []


def test_archs_that_documents_name_exist():
    known = {f'{family.name}-{arch}' for family, arch in every_arch()}
    known |= {f'{name}-nano' for name in FAMILIES}
    names = {}
    for page in PAGES:
        for name in ARCH.findall(page.read_text(encoding='utf-8')):
            names.setdefault(name, page.name)
    assert known <= names.keys()
    assert names.keys() - known <= {'vmamba-tiny'}, names  # a prefix, in deployment.md


def test_parts_that_documents_name_are_registered(parts):
    reference, registered = parts['reference'], set()
    for one in vars(reference.registry).values():
        if isinstance(one, reference.Registry) and one.scope == 'mmvssd':
            one.import_from_location()
            registered |= one.module_dict.keys()
    named = {name for page in PAGES for name in
             re.findall(r"['`]mmvssd\.([A-Z]\w+|each_block)['`]", page.read_text(encoding='utf-8'))}
    assert len(named) > 5
    assert named - registered == {'Mine'}  # of the page that adds a family


def test_settings_are_described(parts):
    """Docstrings have each setting of what a config may name; the Runner gives two of a loop."""
    reference, missing, seen = parts['reference'], {}, 0
    for one in vars(reference.registry).values():
        if not isinstance(one, reference.Registry) or one.scope != 'mmvssd':
            continue
        one.import_from_location()
        for name, part in one.module_dict.items():
            if not part.__module__.startswith('mmvssd.') or '__init__' not in vars(part):
                continue  # of tests, or with the settings of a host's class
            text = f'{inspect.getdoc(part)}\n{inspect.getdoc(part.__init__)}'
            settings = [one.name for one in inspect.signature(part).parameters.values()
                        if one.kind != one.VAR_KEYWORD]
            seen += len(settings)
            described = re.findall(r'^ +(\w+)(?: \(.*?\))?:', text, re.MULTILINE)
            left = set(settings) - set(described) - {'runner', 'dataloader'}
            if left:
                missing[name] = left
    assert seen > 20
    assert missing == {}


def test_the_map_of_the_code():
    """It names ten files, and rooms that there are."""
    page = (ROOT / 'docs' / 'contributing' / 'code_map.md').read_text(encoding='utf-8')
    files = re.findall(r'^\d+\. \[`(.+?)`\]\(../../(.+?)\)',
                       page.partition('## The rooms')[0], re.MULTILINE)
    assert len(files) == 10
    assert all(shown == link and (ROOT / link).is_file() for shown, link in files)
    named = re.findall(r'`((?:mmvssd|kernels|tools|configs)/[\w/.-]*)`', page)
    assert len(named) > 25
    assert [path for path in named if not (ROOT / path).exists()] == []
    picture = (ROOT / 'docs' / 'contributing' / 'code_map.svg').read_text(encoding='utf-8')
    rooms = ', '.join(re.findall(r'class="name"[^>]*>([^<]+)<', picture)).split(', ')
    rooms.remove('OpenMMLab')
    assert len(rooms) > 10
    assert [room for room in rooms
            if not (ROOT / room).exists() and not (ROOT / 'mmvssd' / room).exists()] == []


@pytest.mark.slow
def test_the_site_has_every_page_and_needs_no_network(site, parts):
    for place in leaves(settings()['nav']):
        page = site / re.sub('README.md$', 'index.md', place).replace('.md', '.html')
        text = page.read_text(encoding='utf-8')
        loaded = re.findall(r'<(?:script|img|iframe|link)\b[^>]* (?:src|href)="?([^" >]+)', text)
        assert len(loaded) > 5
        assert [address for address in loaded if '//' in address] == []
    index = json.loads((site / 'search' / 'search_index.json').read_text(encoding='utf-8'))
    places = {entry['location'].partition('#')[0] for entry in index['docs']}
    assert {'troubleshooting.html', 'reference/tools.html', 'kernels/index.html'} <= places


@pytest.mark.slow
def test_the_reference_is_whole(site, parts):
    """Each command, arch, setting, op and registered part is described."""
    reference = parts['reference']
    tools = (site / 'reference' / 'tools.html').read_text(encoding='utf-8')
    for paths in reference.tools().values():
        for path in paths:
            assert f'id="{path.rpartition("/")[2]}"' in tools
    archs = text_of(site / 'reference' / 'archs.html')
    for family in FAMILIES.values():
        keys = reference.archs_table(family.backbone.archs)
        for name in [*family.backbone.archs, *re.findall('`(.+?)`', keys)]:
            assert name in archs
    keys = text_of(site / 'reference' / 'config_keys.html')
    for name, one in vars(reference.registry).items():
        if isinstance(one, reference.Registry) and one.scope == 'mmvssd' and name in (
                'HOOKS', 'LOOPS', 'DATASETS', 'TRANSFORMS'):
            for kind, part in one.module_dict.items():
                if part.__module__.startswith('mmvssd.'):  # others are of tests
                    assert f'mmvssd.{kind}' in keys
    published = text_of(site / 'reference' / 'published.html')
    assert {one.model for one in [*SERIES, *POINTS]} - set(published.splitlines()) == set()
    ops = text_of(site / 'reference' / 'ops.html')
    for name in reference.mmvssd_kernels.__all__:
        assert f'{name}(' in ops


def commands(text):
    """The calls of tools in a page's blocks of shell: a tool's name, and what follows it."""
    for block in re.findall(r'```bash\n(.*?)```', text, re.DOTALL):
        for line in block.replace('\\\n', ' ').splitlines():
            yield from re.findall(r'tools/(?:\w+/)*([\w-]+\.(?:py|sh))(.*?)(?: && |$)',
                                  re.sub(r'(^| )#.*', '', line))


def help_of_tools(site, without=()):
    """What the site says of each tool, by its name; sections of tools may be left out."""
    page = (site / 'reference' / 'tools.html').read_text(encoding='utf-8')
    sections = [part for part in re.split('<h2 id="', page)
                if part.partition('"')[0] not in without]
    return {part.partition('"')[0]: html.unescape(re.sub('<[^>]+>', '', part))
            for section in sections for part in re.split('<h3 id="', section)[1:]}


@pytest.mark.slow
def test_a_page_names_each_option(site):
    """What --help lists stands in a guide too; pages of the kernels say what to look up there."""
    guides = '\n'.join(file.read_text(encoding='utf-8') for file in PAGES)
    tools = help_of_tools(site, without=('benchmarks', 'from-a-plain-installation'))
    assert len(tools) > 25
    options = {(tool, option) for tool, text in tools.items()
               for option in re.findall(r'(?<![\w-])--[a-z][\w-]*', text) if option != '--help'}
    assert len(options) > 100
    assert [one for one in sorted(options)
            if not re.search(rf'{one[1]}\b(?!-)', guides)] == []


@pytest.mark.slow
def test_options_that_documents_name_exist(site):
    """Commands in the guides take the options with which they are written."""
    help_of = help_of_tools(site)
    passed_on = {'dist_train.sh': 'train.py', 'slurm_train.sh': 'train.py',
                 'dist_test.sh': 'test.py', 'slurm_test.sh': 'test.py'}
    wrong, seen = [], 0
    for file in PAGES:
        for tool, rest in commands(file.read_text(encoding='utf-8')):
            if tool not in help_of:
                continue
            taken = help_of[tool] + help_of.get(passed_on.get(tool), '')
            for option in re.findall(r'(?<=\s)--[a-z][\w-]*', rest):
                seen += 1
                if not re.search(rf'{option}\b(?!-)', taken):
                    wrong.append(f'{file.name}: {tool} {option}')
    assert seen > 60
    assert wrong == []


@pytest.mark.slow
def test_pages_in_a_browser(site, browse, browse_frames):
    """No error, no broken picture, nothing wider than the window, and a search without a server."""
    frames = ''
    for name in ('index.html', 'troubleshooting.html', 'contributing/code_map.html',
                 'reference/archs.html', 'reference/tools.html', 'reliability.html'):
        page = site / name
        probe = page.with_name(f'probe_{page.name}')
        probe.write_text(page.read_text(encoding='utf-8').replace('</body>', f'{MEASURE}</body>'),
                         encoding='utf-8')
        frames += ''.join(f'<iframe width="{width}" height="900" style="border: 0" '
                          f'src="{probe.as_uri()}"></iframe>' for width in WIDTHS)
    found, log = browse_frames(site / 'frames.html', frames)
    assert 'CONSOLE' not in log, log
    assert sorted(one['width'] for one in found) == sorted(WIDTHS * 6)
    assert [one for one in found if one['needed'] > one['width'] or one['broken']] == []
    searched, log = browse((site / 'index.html').as_uri() + '?q=checkpoint')
    assert 'CONSOLE' not in log, log
    assert re.search(r'\d+ matching documents', searched)
