"""Work that is spread over threads."""

import threading

import pytest

from stable_audio.nn.hashing import in_threads


@pytest.mark.parametrize("count", [0, 1, 5, 64, 1000])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    assert in_threads(lambda n: 3 * n, range(count)) == [3 * n for n in range(count)]


def test_an_error_comes_out() -> None:
    def work(n: int) -> int:
        if n == 77:
            raise OSError("damaged")
        return n

    with pytest.raises(OSError, match="damaged"):
        in_threads(work, range(100))


def test_two_items_are_worked_on_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tensors are few, and each is worth a thread."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=60)
    assert in_threads(lambda n: both.wait() >= 0, range(2)) == [True, True]
