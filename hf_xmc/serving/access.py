"""Who may do what: keys from the environment, sent with a request in one of the usual ways."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

TAGGING, CHANGING = "HF_XMC_API_KEYS", "HF_XMC_ADMIN_KEYS"  # environment variables: keys with commas between them


class Role(IntEnum):
    """What the sender of a request may do."""

    NOBODY = 0
    TAGS = 1
    CHANGES = 2


@dataclass(frozen=True)
class Keys:
    """The keys that a server accepts. Without keys for tagging everybody may tag; without keys for changes nobody may
    change labels.

    >>> keys = Keys(("reader",), ("owner",))
    >>> keys.role({b"authorization": b"Bearer owner"}), keys.role({b"x-api-key": b"guess"})
    (<Role.CHANGES: 2>, <Role.NOBODY: 0>)
    >>> Keys().role({})
    <Role.TAGS: 1>
    """

    tagging: tuple[str, ...] = ()
    changing: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls) -> Keys:
        """The keys in the environment variables HF_XMC_API_KEYS and HF_XMC_ADMIN_KEYS."""
        listed = [os.environ.get(name, "").split(",") for name in (TAGGING, CHANGING)]
        return cls(*(tuple(key.strip() for key in keys if key.strip()) for keys in listed))

    def role(self, headers: Mapping[bytes, bytes]) -> Role:
        """What the sender of a request with these headers may do; names of headers in lower case."""
        given = [*sent_keys(headers)]
        # Each key is compared, whatever the ones before it were, so that the time tells nothing.
        changes = sum(same(key, one) for key in self.changing for one in given)
        tags = sum(same(key, one) for key in self.tagging for one in given)
        if changes:
            return Role.CHANGES
        return Role.TAGS if tags or not self.tagging else Role.NOBODY


def sent_keys(headers: Mapping[bytes, bytes]) -> Iterable[bytes]:
    """The keys in a request: in `X-API-Key`, as a bearer token, or as the password of HTTP's basic login, for which a
    browser asks and which stands in an address as `http://user:key@host`."""
    if key := headers.get(b"x-api-key"):
        yield key
    kind, _, value = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer":
        yield value.strip()
    elif kind.lower() == b"basic":
        try:
            _, _, password = base64.b64decode(value, validate=True).partition(b":")
        except binascii.Error:
            return
        yield password


def same(key: str, given: bytes) -> bool:
    """Whether a key is the given one; takes as long wherever they differ."""
    return hmac.compare_digest(key.encode("utf-8", "surrogateescape"), given)
