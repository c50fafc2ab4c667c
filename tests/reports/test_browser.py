"""Pages in a real browser: no error, all pictures shown, nothing wider than the window."""
import html
import json

import pytest

from mmvssd.reports.data import examine
from mmvssd.reports.data.page import page as data_page
from mmvssd.reports.runs.page import page as runs_page

DETECTOR = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
WIDTHS = (1280, 400)
#: Tells the page around what the browser made of this one.
MEASURE = """<script>
addEventListener('load', () => Promise.all([...document.images].map(one => one.decode().catch(
  () => null))).then(() => parent.postMessage(JSON.stringify({
    width: innerWidth, needed: document.documentElement.scrollWidth, images: document.images.length,
    broken: [...document.images].filter(one => !one.naturalWidth || !one.clientWidth).length,
    wide: [...document.images].filter(one => one.getBoundingClientRect().right > innerWidth).length,
  }), '*')));
</script>"""


pytestmark = pytest.mark.slow


@pytest.fixture
def measured(browse_frames, tmp_path):
    """Show a page in frames of each width; return what each measured, and the browser's log."""
    def run(page):
        probed = page.replace("default-src 'none'",
                              "default-src 'none'; script-src 'unsafe-inline'")
        assert probed != page
        shown = html.escape(probed.replace('</body>', f'{MEASURE}</body>'))
        return browse_frames(tmp_path / 'frames.html', ''.join(
            f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{shown}"></iframe>'
            for width in WIDTHS))

    return run


def check(found, log):
    assert sorted(one['width'] for one in found) == sorted(WIDTHS)
    for one in found:
        assert one['images'] > 2
        assert one['broken'] == one['wide'] == 0, one
        assert one['needed'] <= one['width'], one
    assert 'CONSOLE' not in log, [line for line in log.splitlines() if 'CONSOLE' in line]


def test_data(measured, recipe, digits):
    name = 'a_class_of_a_very_long_name_without_a_blank_' * 4
    for split in ('train2017', 'val2017'):
        file = digits / f'coco/annotations/instances_{split}.json'
        content = json.loads(file.read_text())
        content['categories'][0].update(name=name)
        file.write_text(json.dumps(content))
    cfg = recipe(DETECTOR)
    for phase in ('train', 'val', 'test'):
        dataset = cfg[f'{phase}_dataloader'].dataset
        dataset.metainfo = dict(classes=(name, *dataset.metainfo.classes[1:]))
    check(*measured(data_page(examine(cfg, samples=3), 'x' * 200, 'y' * 300)))


def test_runs(measured, make_runs):
    check(*measured(runs_page(make_runs(), 'python ' + 'x' * 300)))


def test_a_page_with_faults_is_seen_as_one(measured):
    """The test itself: a picture that is broken, and a table that is too wide."""
    page = ('<!DOCTYPE html><html><head><meta http-equiv="Content-Security-Policy" content="'
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"></head><body>"
            '<img src="data:image/png;base64,AAAA"><img src="https://example.invalid/a.png">'
            '<p style="width: 3000px">x</p></body></html>')
    found, log = measured(page)
    assert [one['broken'] for one in found] == [2, 2]
    assert all(one['needed'] > one['width'] for one in found)
    assert 'CONSOLE' in log  # the picture from elsewhere is refused
