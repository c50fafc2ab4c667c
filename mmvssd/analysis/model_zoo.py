"""The model-zoo tables of the documents, written from the recipes' metafiles.

A document holds a table between two comments, ``<!-- model zoo: detection -->`` and
``<!-- end of model zoo -->``. The name is that of a folder of ``configs``. A metafile is
OpenMMLab's, with one key more in each result: ``Metrics`` holds the published scores and
``Measured`` those of a training by this project, each ``{}`` if there are none.
"""
import os
import re
from pathlib import Path
from typing import Dict, List

from mmengine.fileio import load

from mmvssd.files import write_whole

#: Folders of ``configs`` without a metafile: parts of recipes, and recipes on made-up data.
NOT_IN_ZOO = ('_base_', 'samples')

BLOCK = re.compile(r'(?<=<!-- model zoo: )(?P<folder>\w+) -->\n(?P<table>.*?)'
                   r'(?=<!-- (?P<next>end of model zoo|model zoo: \w+) -->|\Z)', re.DOTALL)


class ModelZooError(ValueError):
    """Metafiles, recipes and documents don't fit together."""


def update_documents(root: Path, *, check: bool = False) -> List[Path]:
    """Write the tables of all documents anew.

    Args:
        root: The checkout.
        check: Write nothing.

    Returns:
        The documents whose tables were out of date.

    Raises:
        ModelZooError: A metafile names a recipe that is not there, a recipe has no entry in a
            metafile, or a document asks for a table that there is not.
    """
    zoo = load_zoo(root)
    fresh = {document: _fill(document, zoo, root) for document in _documents(root)}
    outdated = [document for document, text in fresh.items() if text != _read(document)]
    if not check:
        for document in outdated:
            write_whole(document, fresh[document])
    return outdated


def load_zoo(root: Path) -> Dict[str, List[dict]]:
    """Read the metafiles that ``model-index.yml`` lists.

    Returns:
        For each folder of ``configs`` the models of its metafile, in their order.
    """
    index = root / 'model-index.yml'
    zoo = {}
    for name in load(index)['Import']:
        if not (root / name).is_file():
            raise ModelZooError(f'{index} imports {name}, which is missing')
        zoo[(root / name).parent.name] = load(root / name)['Models']
    _check_recipes(root, [model['Config'] for models in zoo.values() for model in models])
    for models in zoo.values():
        for model in models:
            _check_model(model)
    return zoo


def _check_recipes(root: Path, named: List[str]) -> None:
    """Raise unless the metafiles name every recipe, and each one once."""
    recipes = {str(file.relative_to(root)) for file in root.glob('configs/*/*.py')
               if file.parent.name not in NOT_IN_ZOO}
    problems = [f'{name}: named by a metafile, but there is no such recipe'
                for name in sorted(set(named) - recipes)]
    problems += [f'{name}: a recipe that no metafile names; add an entry to the metafile.yml of '
                 'its folder, and that file to model-index.yml'
                 for name in sorted(recipes - set(named))]
    problems += [f'{name}: named by {named.count(name)} entries of metafiles, expected one'
                 for name in sorted(set(named)) if named.count(name) > 1]
    if problems:
        raise ModelZooError('\n'.join(problems))


def _check_model(model: dict) -> None:
    stem = Path(model['Config']).stem
    if model['Name'] != stem:
        raise ModelZooError(f'{model["Config"]}: its entry is called {model["Name"]}, '
                            f'expected {stem}')
    for result in model['Results']:
        for key in ('Metrics', 'Measured'):
            if not isinstance(result.get(key), dict):
                raise ModelZooError(f'{stem}: {key} of {result["Task"]} is {result.get(key)}, '
                                    'expected scores by name, {} if there are none')


def table(models: List[dict], *, root: Path, folder: Path) -> str:
    """Write models as a Markdown table.

    Args:
        models: Entries of a metafile.
        root: The checkout, which the entries' paths start from.
        folder: Folder of the document, which links start from.
    """
    lines = ['| recipe | params | GFLOPs | published | measured here |', '|---|---|---|---|---|']
    for model in models:
        link = os.path.relpath(root / model['Config'], folder)
        metadata = model['Metadata']
        cells = [f'[{model["Name"]}]({link})',
                 f'{metadata["Parameters"] / 1e6:.2f} M',
                 f'{metadata["FLOPs"] / 1e9:.5g}' if 'FLOPs' in metadata else '-',
                 _scores(model['Results'], 'Metrics') or 'no published score',
                 _scores(model['Results'], 'Measured') or 'not trained here']
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _scores(results: List[dict], key: str) -> str:
    return ', '.join(f'{score} {name}' for result in results
                     for name, score in result[key].items())


def _documents(root: Path) -> List[Path]:
    """Return documents that hold a table."""
    files = [root / 'README.md', *sorted(root.glob('docs/*.md')),
             *sorted(root.glob('configs/*/README.md'))]
    return [file for file in files if file.is_file() and BLOCK.search(_read(file))]


def _fill(document: Path, zoo: Dict[str, List[dict]], root: Path) -> str:
    """Return the document's text with new tables."""

    def block(match: 're.Match') -> str:
        folder = match['folder']
        if folder not in zoo:
            raise ModelZooError(f'{document}: asks for the table of {folder}; there are those of '
                                f'{", ".join(zoo)}')
        if match['next'] != 'end of model zoo':
            raise ModelZooError(f'{document}: the table of {folder} does not end; put '
                                '<!-- end of model zoo --> behind it')
        return f'{folder} -->\n{table(zoo[folder], root=root, folder=document.parent)}'

    return BLOCK.sub(block, _read(document))


def _read(file: Path) -> str:
    return file.read_text(encoding='utf-8')
