"""Words: names that were given up stay given up, and comments do without the phrases that make a reader read twice."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SELF = Path(__file__).name
CODE = ("csrc/**/*.[ch]", "pasta_py/**/*.py", "tests/**/*.py", "tests/**/*.[ch]")
CODE += ("fuzz/**/*.py", "fuzz/**/*.[ch]", "bench/*.py", "bench/*.[ch]")
TEXT = ("csrc/**/*.[ch]", "pasta_py/**/*.py", "docs/*.md", "*.md")

#: Whole names, each with what took its place (docs/architecture.md has the glossary), or - where nothing did.
RETIRED = """
stations neighbour_table
stations_hear neighbour_learn_mac
stations_learn neighbour_learn_addr
stations_find neighbour_lookup
mailbox message_queue
mailbox_put message_queue_put
mailbox_take message_queue_take
ownership flow_steering
plane_add_lanes plane_add_shards
lane_frames shard_frames
lane_sockets shard_sockets
lane_dropped shard_dropped
LANES_MAX SHARDS_MAX
LINE_PER_TURN SCHED_TURN_FRAMES
LINE_ROUND SCHED_ROUND
LINE_QUANTUM_MAX SCHED_QUANTUM_MAX
io_brisk sched_note_short
io_is_brisk sched_latency_mode
brisk_ms short_message_ms
loop_is_sparse -
loop_count_alone -
sched_expects_one -
sched_count -
sched_batching -
tap_batching -
slept_us -
SCHED_SLEPT_US -
SCHED_SINGLE_TURNS -
SCHED_PROBE_TURNS -
bucket_take flood_limit_take
bucket_return flood_limit_return
udp_dense udp_polled
udp_forget_dense udp_stop_polling
udp_look_at_dense udp_poll
look_us next_poll_us
udp_cut segmenter
udp_cut_begin segment_udp
udp_cut_next segment_next
was_cut reassembled
udp_run udp_gso_batch
udp_run_takes udp_batch_takes
udp_run_add udp_batch_add
tcp_hold tcp_ooo_add
tcp_deliver_held tcp_ooo_deliver
tcp_free_held tcp_ooo_free
tcp_held_limit tcp_ooo_limit
held_rings ooo_queues
tcp_spilled_bytes tcp_backlog_bytes
tcp_spill_limit tcp_backlog_limit
tcp_free_spill tcp_free_backlog
drain_spill drain_backlog
TCP_SPILL_BYTES TCP_BACKLOG_BYTES
TCP_OWED_BYTES SCHED_DELAYED_ACK_MAX_BYTES
owed_turns delayed_ack_turns
rcv_told rcv_advertised
rcv_reckoned rcv_computed
rcv_adv rcv_edge
tcp_send_refusal tcp_send_rst_reply
TCP_OPENINGS_PER_S TCP_NEW_FLOWS_PER_S
udp_unasked udp_unsolicited
icmp_unasked icmp_unsolicited
PLANE_BYPASS PLANE_SPLICE
udp_local_flows udp_splice_flows
udp_is_local udp_is_spliced
nsock helper
nsock_stream helper_stream_socket
nsock_serve helper_serve
refused4 blackhole4
refused6 blackhole6
remote_port dest_port
tap_send link_send
tap_begin link_begin
confwire pesto_protocol
confrules port_rules
confserver pesto_server
conf_socket pesto_socket
policy_outbound mapping_outbound
policy_inbound_source mapping_inbound_source
policy_is_virtual mapping_is_virtual
policy_guest_addr mapping_guest_addr
host_state_policy host_state_mapping
machine_socket virtual_machine_socket
DEFAULT_IFNAME IFNAME
UNSET_MTU TAP_MTU
"""

PHRASES = ("whoever", "nobody", "somebody", "as far as", "so many", "for ever", "is to be had", "are to be had")
PHRASES += ("that is no matter", "what is over is")


def retired() -> list[str]:
    return [line.split()[0] for line in RETIRED.split("\n") if line]


def files(patterns: tuple[str, ...]) -> list[Path]:
    found = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return [path for path in found if path.name != SELF and "build" not in path.relative_to(ROOT).parts]


def uses(text: str, names: list[str]) -> list[str]:
    words = set(re.findall(r"\w+", text))
    return [name for name in names if name in words]


def phrases(text: str) -> list[str]:
    flat = re.sub(r"[\s*#/]+", " ", re.sub(r"`[^`\n]*`", "", text)).lower()  # in backticks a word is a name
    return [phrase for phrase in PHRASES if re.search(rf"\b{phrase}\b", flat)]


def test_retired_names_stay_retired() -> None:
    """The old name in a file that uses it is the failure; RETIRED says what to use."""
    paths = files(CODE)
    assert len(paths) > 150
    assert [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in uses(path.read_text(), retired())] == []


def test_comments_and_pages_do_without_riddles() -> None:
    paths = files(TEXT)
    assert len(paths) > 100
    assert [f"{path.relative_to(ROOT)}: {phrase}" for path in paths for phrase in phrases(path.read_text())] == []


@pytest.mark.parametrize("text", ["x = lane_frames;", "counters['udp_unasked']", "struct mailbox m;"])
def test_a_retired_name_is_caught(text: str) -> None:
    assert len(uses(text, retired())) == 1


@pytest.mark.parametrize("text", ["/* whoever reads this */", " * as\n * far as it goes", "# is to be had"])
def test_a_riddle_is_caught(text: str) -> None:
    assert len(phrases(text)) == 1


def test_ordinary_words_pass() -> None:
    assert uses("line = given or run(cut)", retired()) == []
    assert phrases("body, some bodies; so manymore; the user `nobody`") == []
