"""The script of a text, and whether it fits the language. Knows letters; no tables.

The rules are SQL macros, so that DuckDB applies them to a whole table: `script_of(text)` and
`script_fits(language, text)`. A word in Latin letters has the same weight as one character of Han,
Kana or Hangul: 我用 iPhone 手机 is Chinese.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

SCRIPTS = (
    "han",
    "kana",
    "hangul",
    "latin",
    "other",
    "none",
)  # none: only digits and signs, or empty

# Japanese mixes Han and Kana, and Chinese headlines may contain a の. So a text is Kana if at least
# a quarter of its Han and Kana characters are Kana.
_MACROS = r"""
    CREATE OR REPLACE TEMP MACRO count_of(text, class) AS
        length(text) - length(regexp_replace(text, class, '', 'g'));
    CREATE OR REPLACE TEMP MACRO script_counts(text) AS {
        'han': count_of(text, '\p{Han}'),
        'kana': count_of(text, '[\p{Hiragana}\p{Katakana}]'),
        'hangul': count_of(text, '\p{Hangul}'),
        'latin': len(regexp_extract_all(text, '\p{Latin}+')),
        'other': len(regexp_extract_all(
            regexp_replace(text, '[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Latin}]', '', 'g'),
            '\p{L}+'))
    };
    CREATE OR REPLACE TEMP MACRO script_among(n) AS CASE
        WHEN n.han + n.kana + n.hangul + n.latin + n.other = 0 THEN 'none'
        WHEN n.hangul >= greatest(n.han + n.kana, n.latin, n.other) THEN 'hangul'
        WHEN n.han + n.kana >= greatest(n.latin, n.other)
            THEN CASE WHEN 4 * n.kana >= n.han + n.kana THEN 'kana' ELSE 'han' END
        WHEN n.latin >= n.other THEN 'latin'
        ELSE 'other' END;
    CREATE OR REPLACE TEMP MACRO script_of(text) AS CASE
        WHEN strlen(text) = length(text)  -- a shortcut for ASCII: as many bytes as characters
            THEN CASE WHEN regexp_matches(text, '[A-Za-z]') THEN 'latin' ELSE 'none' END
        -- a list of one: DuckDB would evaluate a macro's argument again at each of its uses
        ELSE list_transform([script_counts(text)], lambda n: script_among(n))[1] END;
    CREATE OR REPLACE TEMP MACRO script_suits(language, script) AS CASE
        WHEN script = 'none' THEN true
        WHEN language IN ('zh', 'yue') THEN script = 'han'
        WHEN language = 'ja' THEN script IN ('han', 'kana')
        WHEN language = 'ko' THEN script = 'hangul'
        WHEN language = 'en' THEN script = 'latin'
        WHEN language = 'nospeech' THEN false
        ELSE true END;
    CREATE OR REPLACE TEMP MACRO script_fits(language, text) AS
        script_suits(language, script_of(text));
"""


def define_scripts(connection: "duckdb.DuckDBPyConnection") -> None:
    """Define the macros script_of(text) and script_fits(language, text) on a connection."""
    connection.execute(_MACROS)
