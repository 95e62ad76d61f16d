"""How work ends that another thread finds cannot go on: of a function, the caller gets an error."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tart_ray.engine.stopping import Stop, stoppable
from tart_ray.errors import RunFailedError


def lose(stop: Stop) -> threading.Thread:
    thread = threading.Thread(target=stop.lose_lease, args=["another driver works there now"])
    thread.start()
    return thread


def test_the_main_thread_is_interrupted_and_told_why() -> None:
    def work() -> None:
        with stoppable(ends_process=False) as stop:
            lose(stop)
            threading.Event().wait(60)

    with pytest.raises(RunFailedError) as raised:
        work()
    assert str(raised.value) == "another driver works there now"


def test_a_loss_after_the_end_is_nothing() -> None:
    with stoppable(ends_process=False) as stop:
        pass
    lose(stop).join()


def test_another_thread_is_interrupted_when_it_runs_python_and_told_why() -> None:
    looked, done = threading.Event(), []

    def work() -> None:
        with stoppable(ends_process=False) as stop:
            try:
                lose(stop)
                while True:
                    looked.wait(0.01)  # as Ray Data does
            finally:
                done.append("cleaned up")

    with ThreadPoolExecutor() as pool, pytest.raises(RunFailedError, match="another driver") as raised:
        pool.submit(work).result()
    assert done == ["cleaned up"]
    assert raised.value.__cause__ is None


def test_of_a_loss_at_the_very_end_another_thread_is_told_and_not_interrupted_later() -> None:
    def work() -> int:
        with pytest.raises(RunFailedError, match="another driver"), stoppable(ends_process=False) as stop:
            lose(stop).join()
        return sum(range(1_000_000))

    with ThreadPoolExecutor() as pool:
        assert pool.submit(work).result() == 499_999_500_000


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("of the work")])
def test_what_the_work_raises_and_the_caller_s_interrupt_go_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, stoppable(ends_process=False):
        raise error
    assert raised.value is error
