"""Turn the roles of docstrings, such as :func:`name`, into links of the site."""
import re

from griffe import Extension, NameResolutionError

ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):`~?([\w.]+)`')


class Roles(Extension):
    """Replaces roles by the last part of the name, which links to its description if there is one.

    What has no description in the site, such as a module, is its whole name as code.
    """

    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = ROLE.sub(lambda match: link(obj, match[1]), obj.docstring.value)


def link(obj, name):
    """Return a name as a link that is plain code if nothing in the site describes it."""
    try:
        path = obj.resolve(name)
    except NameResolutionError:
        path = name
    return f'<autoref optional identifier="{path}"><code>{name.rpartition(".")[2]}</code></autoref>'
