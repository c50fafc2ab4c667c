"""Pages in a real browser: no error, all pictures shown, nothing wider than the window."""
import html
import json
import re
import shutil
import subprocess

import pytest

from mmvssd.reports.data import examine
from mmvssd.reports.data.page import page as data_page
from mmvssd.reports.runs.page import page as runs_page

BROWSER = shutil.which('chromium')
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
COLLECT = """<script>
addEventListener('message', event => {
  const line = document.createElement('pre'); line.textContent = event.data;
  document.body.append(line);
});
</script>"""


def measured(page, folder):
    """Show a page in frames of each width; return what each measured, and the browser's log."""
    probed = page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    assert probed != page
    frames = ''.join(
        f'<iframe width="{width}" height="900" style="border: 0" '
        f'srcdoc="{html.escape(probed.replace("</body>", MEASURE + "</body>"))}"></iframe>'
        for width in WIDTHS)
    (folder / 'frames.html').write_text(f'<!DOCTYPE html><body>{COLLECT}{frames}</body>')
    done = subprocess.run(
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
         '--enable-logging=stderr', f'--user-data-dir={folder / "profile"}',
         '--virtual-time-budget=20000', '--window-size=1400,1000', '--dump-dom',
         (folder / 'frames.html').as_uri()],
        capture_output=True, text=True, timeout=120, check=True)
    lines = re.findall(r'<pre>(\{.*?\})</pre>', done.stdout)
    return [json.loads(html.unescape(line)) for line in lines], done.stderr


def check(page, folder):
    found, log = measured(page, folder)
    assert sorted(one['width'] for one in found) == sorted(WIDTHS)
    for one in found:
        assert one['images'] > 2
        assert one['broken'] == one['wide'] == 0, one
        assert one['needed'] <= one['width'], one
    assert 'CONSOLE' not in log, [line for line in log.splitlines() if 'CONSOLE' in line]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium here; Debian's package has it")]


def test_data(recipe, digits, tmp_path):
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
    check(data_page(examine(cfg, samples=3), 'x' * 200, 'y' * 300), tmp_path)


def test_runs(make_runs, tmp_path):
    check(runs_page(make_runs(), 'python ' + 'x' * 300), tmp_path)


def test_a_page_with_faults_is_seen_as_one(tmp_path):
    """The test itself: a picture that is broken, and a table that is too wide."""
    page = ('<!DOCTYPE html><html><head><meta http-equiv="Content-Security-Policy" content="'
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"></head><body>"
            '<img src="data:image/png;base64,AAAA"><img src="https://example.invalid/a.png">'
            '<p style="width: 3000px">x</p></body></html>')
    found, log = measured(page, tmp_path)
    assert [one['broken'] for one in found] == [2, 2]
    assert all(one['needed'] > one['width'] for one in found)
    assert 'CONSOLE' in log  # the picture from elsewhere is refused
