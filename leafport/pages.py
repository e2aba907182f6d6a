"""Pages people read: one HTML file that holds all it shows and asks nothing of any network.

A page extends ``page.html.j2``, which brings the style, light and dark, and a policy that forbids scripts and foreign
content. Names, labels, paths and reasons come from files and folders anybody may have named: templates escape them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from leafport import wording

if TYPE_CHECKING:
    import jinja2


@cache
def environment(package: str) -> jinja2.Environment:
    """The templates of ``package``'s folder ``templates``, beside those all pages share. Only ``.md.j2`` is not HTML.

    Figures are put into words by the filters of ``leafport.wording``. A name a template does not know is an error.
    """
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("leafport")]),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        size=wording.size,
        ms=wording.milliseconds,
        pct=wording.percent,
        level=wording.level,
        diff=wording.difference,
        points=wording.points,
        count=wording.count,
        listed=wording.listed,
        md=wording.markdown,
    )
    return made
