"""Texts that know when a bit of them has changed."""

import zlib

FIELD = '"crc32": "'
"""How the last entry of a signed JSON object begins."""


def sign(text: str) -> str:
    """A JSON object with its CRC-32 as the last entry: it tells of damage, not of ill will.

    Args:
        text: the object, which has entries, on one line or on many.

    Example:
        >>> sign('{"a": 1}')
        '{"a": 1, "crc32": "fba18e97"}'
    """
    text = text.rstrip("\n")
    body = text[:-1].rstrip()
    gap = text[len(body) :].partition("}")[0]
    comma = f",{gap}  " if gap else ", "
    return f'{body}{comma}{FIELD}{_sum(text)}"{text[len(body) :]}'


def unsign(text: str) -> tuple[str, bool]:
    """A JSON object without its checksum, and whether that fits; one without has been given none, which fits."""
    text = text.rstrip("\n")
    at = text.rfind(FIELD)
    body = text[:at].rstrip().removesuffix(",")
    known, after = text[at + len(FIELD) : at + len(FIELD) + 8], text[at + len(FIELD) + 8 :]
    if at < 0 or not after.startswith('"'):
        return text, True
    plain = body + after[1:]
    return plain, known == _sum(plain)


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode(errors='surrogatepass')):08x}"
