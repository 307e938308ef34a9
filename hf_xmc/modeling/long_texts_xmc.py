"""Texts that are much longer than an encoder reads: they are cut before they are tokenised, not after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CHARACTERS = 32  # read for each token that is wanted; those of ordinary text have three to six
GROWTH = 8  # times as many are read of a text that then has too few tokens


def token_ids(
    texts: Sequence[str], length: int, tokenize: Callable[[list[str]], list[list[int]]], left: bool = False
) -> list[list[int]]:
    """Token ids of texts of which `length` are read, the same as of the whole texts. Tokenising megabytes of which a
    few hundred tokens remain takes seconds and gigabytes.

    A long text is cut between words. If what is read of it has too few tokens, such as a page of blanks, more is read.

    Args:
        length: of the token ids, at most.
        tokenize: texts to token ids, truncated to `length`.
        left: whether it truncates at the left, so that the end of a text is read.

    >>> def letters(texts: list[str]) -> list[list[int]]:
    ...     print([len(text) for text in texts])
    ...     return [[ord(letter) for letter in text if letter != " "][:2] for text in texts]
    >>> token_ids(["ab " * 100, " " * 100 + "b"], 2, letters)
    [62, 63]
    [101]
    [[97, 98], [98]]
    """
    most = CHARACTERS * length
    found = tokenize([part_of(text, most, left) for text in texts])
    short = [i for i, text in enumerate(texts) if len(text) > most and len(found[i]) < length]
    while short:
        most *= GROWTH
        for i, ids in zip(short, tokenize([part_of(texts[i], most, left) for i in short]), strict=True):
            found[i] = ids
        short = [i for i in short if len(texts[i]) > most and len(found[i]) < length]
    return found


def part_of(text: str, most: int, left: bool = False) -> str:
    """At most so many characters of the beginning of a text, or of its end, cut at a space where there is one.

    >>> part_of("red cars", 6), part_of("red cars", 6, left=True), part_of("redcars", 3)
    ('red', ' cars', 'red')
    """
    if len(text) <= most:
        return text
    if left:
        start = text.find(" ", len(text) - most)
        return text[len(text) - most if start < 0 else start :]
    end = text.rfind(" ", 0, most)
    return text[: most if end <= 0 else end]
