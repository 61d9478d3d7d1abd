"""The templates that pages and summaries are rendered from."""

import jinja2


def environment() -> jinja2.Environment:
    """Where ``mnist/templates`` are found: what is put into HTML is escaped, and a name that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mnist"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
