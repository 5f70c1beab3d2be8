"""What the tests rely on: a server that is stopped for a while finds its port free, whatever other tests run."""

from contextlib import closing

from tests.support.ports import PORTS_A_PROCESS, Ports


def test_two_processes_whose_numbers_are_equal_share_no_port() -> None:
    with closing(Ports(7)) as one, closing(Ports(7)) as other:
        ports, others = ({owner.free() for _ in range(PORTS_A_PROCESS)} for owner in (one, other))

    assert ports
    assert others
    assert not ports & others
