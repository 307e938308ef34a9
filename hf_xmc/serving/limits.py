"""What a service accepts, and the sentence with which it refuses the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from hf_xmc.errors import SettingsError
from hf_xmc.inference.given_texts import is_unicode


class RequestRefused(SettingsError):
    """A request that a service does not answer.

    Args:
        kind: what is wrong, as a key: `"text_too_long"`, `"unknown_label"`, ... A page translates the sentence by it.
        found: the sentence in English.
        hint: what to do about it.
        status: the HTTP status that says the same.
        **values: the numbers and names in the sentence, for a translation.
    """

    def __init__(self, kind: str, found: str, hint: str = "", status: int = 422, /, **values: Any) -> None:
        super().__init__(found, hint=hint)
        self.kind, self.status, self.values = kind, status, values


@dataclass(frozen=True)
class Limits:
    """The largest request that a service answers. Every check comes before the work that it saves.

    Args:
        text_characters: of one text. Longer ones are refused before they are tokenised.
        explained_characters: of a text that is explained, which takes a pass through the encoder for each word.
        explained_labels: labels of a text that are explained, each of which takes a pass for each of its own words.
        k: labels per text.
        texts: in one request.
        request_bytes: of the body of a request.
        upload_bytes: of a file that is uploaded to the page.
        unpacked_bytes: of such a file once it is unpacked, if it is a spreadsheet or Parquet.
        seconds: that a request may take before it is given up.
        queue: requests that may wait for the encoder at a time.
        queue_bytes: of the bodies of all requests at a time.
        name_characters: of the name of a label, and of what is searched for.
        definition_characters: of the definition of a label.
        session_labels: labels that a visitor may add in a session.

    >>> Limits(text_characters=10).check_text("A text that is too long")
    Traceback (most recent call last):
    hf_xmc.serving.limits.RequestRefused: The text has 23 characters and at most 10 are accepted; cut or split it
    """

    text_characters: int = 1_000_000
    explained_characters: int = 4_000
    explained_labels: int = 10
    k: int = 100
    texts: int = 256
    request_bytes: int = 8 * 2**20
    upload_bytes: int = 32 * 2**20
    unpacked_bytes: int = 64 * 2**20
    seconds: float = 30.0
    queue: int = 256
    queue_bytes: int = 64 * 2**20
    name_characters: int = 300
    definition_characters: int = 5_000
    session_labels: int = 200

    @classmethod
    def changed(cls, given: Sequence[str]) -> Limits:
        """The defaults with some of them changed, as `name=value`.

        Raises:
            SettingsError: an unknown limit, or a value that is no number above 0.

        >>> Limits.changed(["k=20", "seconds=2.5"]).seconds
        2.5
        """
        kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, Any] = {}
        for one in given:
            name, _, value = one.partition("=")
            if name not in kinds:
                raise SettingsError(f"there is no limit {name!r}", hint=f"there are {', '.join(kinds)}")
            try:
                values[name] = kinds[name](value)
            except ValueError:
                values[name] = 0
            if not 0 < values[name] < math.inf:
                raise SettingsError(f"the limit {name} is {value!r}", hint="expected a number above 0")
        return cls(**values)

    def check_text(self, text: str) -> None:
        """Refuse what is no text, or one that is empty or too long.

        Raises:
            RequestRefused: `"no_text"`, `"empty_text"` or `"text_too_long"`.
        """
        if not isinstance(text, str):
            raise RequestRefused("no_text", f"The text is of type {type(text).__name__}", "send a string")
        if len(text) > self.text_characters:
            found = f"The text has {len(text):,} characters and at most {self.text_characters:,} are accepted"
            numbers = {"found": len(text), "most": self.text_characters}
            raise RequestRefused("text_too_long", found, "cut or split it", 413, **numbers)
        if not text.strip():
            raise RequestRefused("empty_text", "The text is empty", "send a text")
        if not is_unicode(text):
            raise RequestRefused("no_text", "The text holds half of a character (a surrogate)", "encode it as UTF-8")

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuse too many texts, or one that is empty or too long.

        Raises:
            RequestRefused: `"too_many_texts"`, `"empty_text"` or `"text_too_long"`.
        """
        if len(texts) > self.texts:
            found = f"There are {len(texts):,} texts and at most {self.texts:,} are accepted in one request"
            numbers = {"found": len(texts), "most": self.texts}
            raise RequestRefused("too_many_texts", found, "send them in several requests", 413, **numbers)
        for text in texts:
            self.check_text(text)

    def check_k(self, k: int, most: int | None = None) -> None:
        """Refuse a number of labels below 1 or above the limit, or above `most`.

        Raises:
            RequestRefused: `"k_out_of_range"`.
        """
        most = self.k if most is None else most
        if not isinstance(k, int) or isinstance(k, bool):
            found = f"k, the number of labels per text, is of type {type(k).__name__}"
            raise RequestRefused(
                "k_out_of_range", found, f"give a whole number of 1 to {most:,}", found="?", most=most
            )
        if not 1 <= k <= most:
            found = f"k is {k:,}, the number of labels per text"
            raise RequestRefused("k_out_of_range", found, f"give 1 to {most:,}", found=k, most=most)

    def check_upload(self, size: int) -> None:
        """Refuse a file of too many bytes.

        Raises:
            RequestRefused: `"upload_too_large"`.
        """
        if size > self.upload_bytes:
            found = f"The file has {megabytes(size)} and at most {megabytes(self.upload_bytes)} are accepted"
            numbers = {"found": size, "most": self.upload_bytes}
            raise RequestRefused("upload_too_large", found, "split it, or use hf-xmc predict", 413, **numbers)

    def check_unpacked(self, size: int) -> None:
        """Refuse a file of too many bytes when it is unpacked.

        Raises:
            RequestRefused: `"upload_too_large"`.
        """
        if size > self.unpacked_bytes:
            found = f"The file unpacks to {megabytes(size)} and at most {megabytes(self.unpacked_bytes)} are accepted"
            numbers = {"found": size, "most": self.unpacked_bytes}
            raise RequestRefused("upload_too_large", found, "split it, or use hf-xmc predict", 413, **numbers)

    def check_words(self, what: str, text: str, most: int) -> None:
        """Refuse a name, a definition or words of a search that are too long; `what` names them in the sentence.

        Raises:
            RequestRefused: `"words_too_long"`.
        """
        if len(text) > most:
            found = f"The {what} has {len(text):,} characters and at most {most:,} are accepted"
            raise RequestRefused("words_too_long", found, "shorten it", 413, what=what, found=len(text), most=most)

    def check_page(self, limit: int, offset: int) -> None:
        """Refuse a page of a list that asks for too much or begins below 0.

        Raises:
            RequestRefused: `"page_out_of_range"`.
        """
        if not 1 <= limit <= 1000 or offset < 0:
            found = f"A list of {limit:,} entries from entry {offset:,} on was asked for"
            raise RequestRefused("page_out_of_range", found, "give a limit of 1 to 1,000 and an offset of 0 or more")


def too_busy(waiting: str, most: str) -> RequestRefused:
    """The refusal where too much waits already."""
    found = f"{waiting} are waiting already, and at most {most} may"
    return RequestRefused("too_busy", found, "try again in a second", 503)


def timed_out(seconds: float, what: str = "The request took longer than {} seconds") -> RequestRefused:
    """The refusal of what took, or waited, too long."""
    found = what.format(f"{seconds:g}") + " and was given up"
    return RequestRefused("timed_out", found, "try again, with fewer or shorter texts", 504, seconds=f"{seconds:g}")


def megabytes(size: int) -> str:
    """A number of bytes in words.

    >>> megabytes(3 * 2**20)
    '3.0 MB'
    """
    return f"{size / 2**20:,.1f} MB"


def whole(number: Any) -> Any:
    """9 for 9.0, which JSON does not tell from it; anything else as it is."""
    return int(number) if isinstance(number, float) and number.is_integer() else number
