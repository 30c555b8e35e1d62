"""What is shown in a terminal."""

SAFE = "what is recorded is safe: run the same command again to continue"
"""Said of an audit that did not come to its end."""


def printable(text: str) -> str:
    r"""Text on one line, in which control characters, which could command a terminal, stand as their escapes.

    Names of folders, models and concepts are anybody's, and so is what libraries say of them.

    Example:
        >>> printable("a\x1b[31m\nname")
        'a\\x1b[31m name'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))


def said(message: str) -> str:
    """A message as `printable` has it, without secrets that an address or an error may hold."""
    from lit_memories.storage.hub import redact  # half a second, which nothing takes that goes well

    return printable(redact(message))
