"""What a busy machine may delay or disturb, without a limit that only a quiet one keeps."""

from collections.abc import Callable


def least(attempt: "Callable[[], float]", *, below: float, attempts: int = 10) -> float:
    """The least of what some attempts took, which is below that: a delay of ours would be in each, a neighbour's is not."""
    took = [attempt()]
    while min(took) >= below and len(took) < attempts:
        took.append(attempt())
    assert min(took) < below, took
    return min(took)
