"""What an agent said is told to the others only as long as the agent lives."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from keeperbench import Bench


def test_facts_of_an_agent_that_is_gone_are_not_told_any_more() -> None:
    bench = Bench("a", "b", "witness", listed=("a", "b"))
    keeper, other = bench.keepers["a"], bench.keepers["b"]
    keeper.permit(bench.now_ns, {"role": "passive"})
    bench.run(300)
    heard = other.peers.peers["a"].beat
    assert heard is not None and heard.facts == {"role": "passive"}
    bench.run(31_000)
    heard = other.peers.peers["a"].beat
    assert heard is not None and heard.facts == {}
