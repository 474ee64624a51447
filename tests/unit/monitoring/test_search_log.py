from contextlib import closing
from pathlib import Path

from ragself.errors import StoreError
from ragself.monitoring.search_log import SIGNALS, SignalLog
from ragself.monitoring.usage import spending
from ragself.schema import Account

DAY = 86_400.0
NOW = 1_800_000_000.0


def test_what_passes_have_spent_within_a_time(tmp_path: Path) -> None:
    with closing(SignalLog(tmp_path / SIGNALS)) as log:
        assert log.spent(0, NOW) == (0.0, 0)
        log.spend(50.0, 1000, NOW - 2 * DAY)
        log.spend(20.0, 300, NOW - DAY / 2)
        log.spend(1.5, 0, NOW)
        log.spend(0.5, 7, NOW)
        log.spend(90.0, 90, NOW + 2 * DAY)  # the clock was set back since
        assert log.spent(NOW - DAY, NOW) == (22.0, 307)
        log.spend(0.0, 0, NOW + 200 * DAY)
        assert log.spent(0, NOW) == (0.0, 0)  # not kept for ever


def test_a_pass_tells_what_it_spends_while_it_runs_and_when_it_breaks_off(tmp_path: Path) -> None:
    account = Account(tokens=100)  # of an earlier pass

    def spent() -> tuple[float, int]:
        with closing(SignalLog(tmp_path / SIGNALS)) as log:
            return log.spent(0, 2**40)

    def work() -> None:
        sum(number * number for number in range(1_000_000))

    try:
        with spending(tmp_path, account) as note:
            work()
            account.tokens += 11
            note()
            cpu, tokens = spent()  # as a kill would leave it
            assert (cpu > 0.01, tokens) == (True, 11)
            work()
            account.tokens += 5
            raise StoreError("it breaks off")
    except StoreError:
        pass
    assert spent()[0] > cpu + 0.01
    assert spent()[1] == 16
