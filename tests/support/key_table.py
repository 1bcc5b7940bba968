"""The table of all configuration keys in configs/README.md, made from pipeline/config.py.

uv run python -m tests.support.key_table
"""

import ast
import json
from pathlib import Path

from pipeline.config import describe_fields

README = Path(__file__).parents[2] / "configs" / "README.md"
BEGIN, END = "<!-- keys -->\n", "<!-- end of keys -->"


def table() -> str:
    """One row per key, in the order of the configuration; defaults as YAML writes them."""
    rows = [
        f"| `{key}` | {_as_yaml(default)} | {text.replace('|', chr(92) + '|')} |"
        for key, default, text in describe_fields()
    ]
    return "\n".join(["| key | default | |", "|---|---|---|", *rows, ""])


def with_table(text: str) -> str:
    """The text of configs/README.md, what is between the markers replaced by the table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def _as_yaml(default: str) -> str:
    return default if default == "required" else f"`{json.dumps(ast.literal_eval(default))}`"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
