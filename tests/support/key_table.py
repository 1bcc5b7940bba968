"""The tables of all configuration keys in the READMEs, made from the classes.

uv run python -m tests.support.key_table
"""

import ast
import json
from pathlib import Path

from pydantic import BaseModel

from pipeline.config import RunConfig, describe_fields
from pipeline.training.settings import FinetuneConfig

_ROOT = Path(__file__).parents[2]
TABLES: dict[Path, type[BaseModel]] = {
    _ROOT / "configs" / "README.md": RunConfig,
    _ROOT / "pipeline" / "training" / "README.md": FinetuneConfig,
}
BEGIN, END = "<!-- keys -->\n", "<!-- end of keys -->"


def table(config: type[BaseModel]) -> str:
    """One row per key, in the order of the configuration; defaults as YAML writes them."""
    rows = [
        f"| `{key}` | {_as_yaml(default)} | {text.replace('|', chr(92) + '|')} |"
        for key, default, text in describe_fields(config)
    ]
    return "\n".join(["| key | default | |", "|---|---|---|", *rows, ""])


def with_table(text: str, config: type[BaseModel]) -> str:
    """The text of a README, what is between the markers replaced by the table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(config)}{END}{after}"


def _as_yaml(default: str) -> str:
    return default if default == "required" else f"`{json.dumps(ast.literal_eval(default))}`"


if __name__ == "__main__":
    for readme, config in TABLES.items():
        readme.write_text(with_table(readme.read_text(encoding="utf-8"), config), encoding="utf-8")
