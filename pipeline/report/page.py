"""HTML pages from templates: every value is escaped. Knows Jinja2; knows no figures."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.text import clock, duration, foreign, minute, printable, share, thousands

_TEMPLATES = Path(__file__).parent


def render_page(template: str, **values: object) -> str:
    """A template of this folder with these values; one that is missing is an error."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_without_control_characters,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty text
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "clock": clock,
        "duration": duration,
        "foreign": foreign,
        "minute": minute,
        "share_of": share,
        "thousands": thousands,
    }
    return environment


def _without_control_characters(value: object) -> object:
    """Applied to every value that the template prints, also where it lacks a filter."""
    plain_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(str(value)) if plain_text else value
