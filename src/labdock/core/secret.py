"""Secrets that somebody sets, beside those that Labdock makes itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

from labdock.core.errors import BadRequestError
from labdock.core.login import CLIENT_SECRET, LDAP_PASSWORD

ACME_EAB_KEY = "acme_eab_key"

GIVEN_SECRETS: Mapping[str, str] = {
    CLIENT_SECRET: "Client secret of the application at the sign-in provider",
    LDAP_PASSWORD: "Password of login.ldap.lookup_dn in the directory",
    ACME_EAB_KEY: "Key (HMAC) of the account at the certificate authority, for site.acme.eab_key_id",
}
"""Their files' names in the folder of secrets, and what each is."""

MOST_CHARACTERS = 1000


def check_secret(name: str, text: str) -> str:
    """*text* without the line's end, if it can be the secret *name*.

    Raises:
        BadRequestError: It is empty, too long, or not one line. The text is not repeated.
    """
    value = text.strip("\r\n")
    if not value.strip() or len(value) > MOST_CHARACTERS or not value.isprintable():
        raise BadRequestError(
            f"{name} must be one line of 1 to {MOST_CHARACTERS} characters; {len(value)} were given.",
            field=name,
            fix="Copy it from the provider's page, without what stands around it.",
        )
    if name == ACME_EAB_KEY and not re.fullmatch(r"[A-Za-z0-9_+/-]+=*", value):
        # It stands among words of the edge's configuration.
        raise BadRequestError(
            f"{name} is no key: authorities give it in base64, with letters, digits, - and _ alone.",
            field=name,
            fix="Copy the HMAC key, not the key's id, without what stands around it.",
        )
    return value
