"""What those who carry on read: paths and names in it exist, and its files are well formed."""
import importlib
import re
import subprocess

import pytest
import yaml

from mmvssd.paths import project_root

ROOT = project_root()
PAGES = ['CONTRIBUTING.md', 'CHANGELOG.md', 'docs/contributing/style.md', 'docs/README.md']
FORMS = ['CITATION.cff', '.pre-commit-config.yaml',
         *(str(file.relative_to(ROOT)) for file in sorted((ROOT / '.github').rglob('*.yml')))]


def read(name):
    return (ROOT / name).read_text(encoding='utf-8')


@pytest.mark.parametrize('page', PAGES)
def test_paths_and_links_lead_somewhere(page):
    text = read(page)
    paths = re.findall(r'(?:^|[\s`])((?:\w+/)+[\w.-]+\.(?:py|sh|md|yml))', text)
    links = [link.partition('#')[0] for link in re.findall(r'\]\(([^)]+)\)', text)
             if '://' not in link]
    here = (ROOT / page).parent
    missing = [path for path in paths if 'NAME' not in path and not (ROOT / path).exists()]
    missing += [link for link in links if link and not (here / link).exists()]
    assert not missing
    assert paths or page != 'CONTRIBUTING.md'


def test_names_exist():
    names = re.findall(r'`(mmvssd(?:_kernels)?(?:\.\w+)+)', read('CONTRIBUTING.md'))
    assert len(names) > 4
    for name in names:
        module, _, attribute = name.rpartition('.')
        if not hasattr(importlib.import_module(module), attribute):
            importlib.import_module(name)


@pytest.mark.parametrize('name', FORMS)
def test_a_form_is_well_formed(name):
    assert isinstance(yaml.safe_load(read(name)), dict)


def test_the_citation_is_of_this_version():
    from mmvssd.version import __version__
    citation = yaml.safe_load(read('CITATION.cff'))
    assert citation['version'] == __version__
    cited = ' '.join(work['url'] for work in citation['references'])
    assert '2407.18559' in cited
    assert '2401.10166' in cited


def test_the_workflow_calls_commands_that_there_are():
    jobs = yaml.safe_load(read('.github/workflows/tests.yml'))['jobs']
    commands = [step['run'] for job in jobs.values() for step in job['steps'] if 'run' in step]
    called = [found for command in commands
              for found in re.findall(r'bash (tools/\S+)(.*)', command)]
    assert {script for script, _ in called} == {
        'tools/run_tests.sh', 'tools/quickstart.sh', 'tools/docs.sh'}
    for script, options in called:
        shown = subprocess.run(['bash', str(ROOT / script), '--help'], capture_output=True,
                               text=True, check=True).stdout
        assert all(option in shown for option in options.split()), (script, options)
    for command in commands:
        subprocess.run(['bash', '-n', '-c', command], check=True)


def test_the_workflow_keeps_the_site_that_a_strict_build_makes():
    steps = yaml.safe_load(read('.github/workflows/tests.yml'))['jobs']['docs']['steps']
    settings = yaml.safe_load(read('mkdocs.yml'))
    assert 'bash tools/docs.sh' in [step.get('run') for step in steps]
    assert '--strict' in read('tools/docs.sh')
    kept, = (step['with'] for step in steps if 'upload-artifact' in step.get('uses', ''))
    assert kept['path'] == settings['site_dir']
    assert kept['if-no-files-found'] == 'error'


def test_the_workflow_takes_versions_that_the_package_takes():
    jobs = yaml.safe_load(read('.github/workflows/tests.yml'))['jobs']
    pythons = {version for job in jobs.values()
               for version in job.get('strategy', {}).get('matrix', {}).get('python', [])}
    assert pythons == {'3.10', '3.11', '3.12', '3.13'}
    assert f'Python {min(pythons)} to {max(pythons)}' in read('README.md')
    install, = re.findall(r'pip install .* torch==(\d+\.\d+)', str(jobs['oldest']))
    assert f'PyTorch {install} or later' in read('README.md')


def test_the_style_page_shows_ten_pairs():
    rows = re.findall(r'^\| (.+?) \| (.+?) \|$', read('docs/contributing/style.md'), re.MULTILINE)
    assert len(rows) >= 11
    for _, after in rows[1:]:
        for sentence in re.split(r'[.!?] ', after):
            assert len(sentence.split()) <= 25


def test_every_page_is_listed():
    """The index of the documents has them all, and each of its links leads to a page."""
    index = read('docs/README.md')
    linked = {link.partition('#')[0] for link in re.findall(r'\]\(([^)]+)\)', index)}
    pages = {str(page.relative_to(ROOT / 'docs')) for ending in ('md', 'ipynb')
             for page in (ROOT / 'docs').rglob(f'*.{ending}')}
    assert pages - linked == {'README.md'}
    assert all((ROOT / 'docs' / link).is_file() for link in linked)


def test_the_readme_fits_a_few_screens():
    """Its links lead somewhere."""
    text = read('README.md')
    assert len(text.splitlines()) <= 155
    links = [link.partition('#')[0] for link in re.findall(r'\]\(([^)]+)\)', text)
             if '://' not in link]
    assert len(links) > 12
    assert all((ROOT / link).is_file() for link in links)


def test_the_folders_are_there():
    text = read('CONTRIBUTING.md').partition('## Where things are')[2].partition('\n## ')[0]
    folders = re.findall(r'`([\w/]+/\w*)`', text.partition('| folder |')[2])
    assert len(folders) > 10
    assert all((ROOT / folder).is_dir() for folder in folders)
