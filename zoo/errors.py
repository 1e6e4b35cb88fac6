"""The one exception that the doors print as a sentence; everything else is a bug and keeps its trace."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something the user gave is wrong. The message says what, where (file, key, value) and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`nearest: a, b` for the known words most like `word`, or `known: …` with all of them if none is."""
    known = sorted(known)
    close = get_close_matches(word, known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(known) or 'none'}"
