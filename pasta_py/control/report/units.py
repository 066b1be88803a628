"""Numbers, times and text for people, and text from outside made harmless."""

import html
from datetime import UTC, datetime

_SIZES = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def size(count: int) -> str:
    """1234567 is 1.2 MB: powers of 1000, three digits at most."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_SIZES) - 1:
        value, unit = value / 1000, unit + 1
    if not unit:
        return "1 byte" if count == 1 else f"{count} bytes"
    return f"{value:.1f} {_SIZES[unit]}" if value < 99.95 else f"{value:.0f} {_SIZES[unit]}"


def duration(seconds: float) -> str:
    """0.042 is 42 ms, 75 is 1 min 15 s."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def moment(seconds: float) -> str:
    """A day and a time, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def count(number: int, noun: str) -> str:
    """1 connection, 2 connections, 12,345 connections."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def safe(text: str) -> str:
    """Text from outside, for a place between tags or in a quoted attribute. What cannot be seen is shown as its number."""
    return html.escape("".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text), quote=True)
