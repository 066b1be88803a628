"""What a check of this machine has found."""

from pasta_py.control.requirements.settings import Cause
from pasta_py.record import Record

#: limited: something that many do without does not work. wrong: a start fails, or the guest lacks what it should have.
FINE, LIMITED, WRONG = "fine", "limited", "wrong"


class Finding(Record):
    """One line of `pasta-py doctor`. Unless it is fine, `text` says what is wrong and `remedy` is a command against it."""

    check: str
    status: str
    text: str
    remedy: str = ""


def fine(check: str, text: str) -> Finding:
    return Finding(check=check, status=FINE, text=text)


def wrong(check: str, cause: Cause, status: str = WRONG) -> Finding:
    return Finding(check=check, status=status, text=cause.text, remedy=cause.remedy)
