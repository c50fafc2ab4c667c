"""What MkDocs calls while it builds the site: pages from outside docs/, and the reference."""
import os
import re
from pathlib import Path

from mkdocs.structure.files import File
from reference import PAGES

ROOT = Path(__file__).resolve().parents[2]
#: Pages that lie outside docs/, by their place in the site.
OUTSIDE = {'start.md': 'README.md',
           **{page: page for page in ('CONTRIBUTING.md', 'CHANGELOG.md', 'kernels/README.md',
                                      'configs/classification/README.md',
                                      'configs/detection/README.md',
                                      'configs/segmentation/README.md',
                                      'configs/samples/README.md')}}
PLACES = {source: place for place, source in OUTSIDE.items()}
LINK = re.compile(r'(\]\()([^)\s#:]+)(#[^)\s]*)?(\))')


def on_files(files, config):
    """Add the pages from outside docs/ and those of the reference."""
    for place, source in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for place, make in PAGES.items():
        files.append(File.generated(config, place, content=make()))
    for source in sorted(linked_sources(files)):
        files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
    return files


def linked_sources(files):
    """Return the files outside docs/ that pages link to and that are no pages, such as recipes."""
    found = set()
    for file in files.documentation_pages():
        for match in LINK.finditer(file.content_string):
            target = target_in_repository(file.src_uri, match[2])
            if (target not in PLACES and not target.startswith('docs/')
                    and (ROOT / target).is_file()):
                found.add(target)
    return found


def on_page_markdown(markdown, page, **_):
    """Let links lead to the place in the site of what they lead to in the repository."""
    place = page.file.src_uri
    return LINK.sub(lambda match: f'{match[1]}{link_in_site(place, match[2])}{match[3] or ""})',
                    markdown)


def target_in_repository(place, link):
    """Return the path below the repository's root that a link of a page leads to."""
    source = OUTSIDE.get(place, place if place in PAGES else f'docs/{place}')
    return os.path.normpath(os.path.join(os.path.dirname(source), link))


def link_in_site(place, link):
    """Return a link that leads in the site where it leads in the repository."""
    target = target_in_repository(place, link)
    target = PLACES.get(target, target.removeprefix('docs/'))
    return os.path.relpath(target, os.path.dirname(place) or '.')
