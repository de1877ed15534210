"""Every bound and period of the program, one line each with its reason. No imports, no logic."""

from typing import Final

# Control connections, before the peer is authenticated.
PREAUTH_BYTES_MAX: Final = (
    4096  # header, key and features of a real peer are under 400; a stranger gets no more
)
PREAUTH_TIMEOUT_S: Final = 3.0  # a real handshake is three round trips
HALF_OPEN_MAX: Final = 64  # handshakes under way at once, all sources
HALF_OPEN_PER_SOURCE_MAX: Final = 8  # and from one /32 or /64
ACCEPTS_PER_SOURCE_S: Final = 20  # handshakes that one source may begin in a second and fail
ACCEPT_BURST: Final = 128  # token bucket of handshakes begun, all sources: twice what may be under way,
ACCEPT_PERIOD_S: Final = 0.01  # and a tenth of a core's time
LISTEN_TURN: Final = 50  # connections taken from the kernel, whoever they are from, in each LISTEN_TURN_S:
LISTEN_TURN_S: Final = 0.05  # a flood's queue is worked off before an honest dialler gives up

# Control connections, authenticated.
MESSAGE_BYTES_MAX: Final = 10 * 1024 * 1024  # Weave Net 2.8.1's bound, both directions
TCP_HEARTBEAT_S: Final = 30.0
TCP_READ_TIMEOUT_S: Final = 60.0
CONN_LIMIT_DEFAULT: Final = 200  # Weave Net 2.8.1
SEND_BACKLOG_BYTES_MAX: Final = 32 * 1024 * 1024  # a neighbour this far behind is cut off

# Gossip and topology.
GOSSIP_INTERVAL_S: Final = 30.0
GOSSIP_PAYLOAD_BYTES: Final = 128 * 1024  # larger news go in several messages: 14 peers of a mesh of 300 each
GOSSIP_TURN_BYTES: Final = 128 * 1024  # encoded and sealed at once, 0.3 to 4 ms; what is left waits,
GOSSIP_TURN_S: Final = 0.002  # so long
TOPOLOGY_DEFER_S: Final = 1.0  # own changes are gathered this long before they are published
ESTABLISHED_DEFER_S: Final = 0.05  # a link that came up is published sooner: frames wait for it
ROUTES_DEFER_S: Final = 0.1  # recalculation of routes is gathered this long
GC_DEFER_S: Final = 1.0
PEERS_MAX: Final = 8192  # peers a member can make us remember
CONNECTIONS_PER_PEER_MAX: Final = 4096
SURROGATE_SEEN_MAX: Final = 32768  # gossip of unknown channels relayed per interval; their hashes take 6 MB
CONNECTIONS_MAX: Final = 1 << 18  # of all peers together; more would not fit into one topology message
CHANNEL_NAME_BYTES_MAX: Final = 64
NICKNAME_BYTES_MAX: Final = 255
ADDRESS_BYTES_MAX: Final = 128

# Addresses.
RING_ENTRIES_MAX: Final = (
    65536  # ranges that a universe can be divided into; a /12 among 300 peers has some thousands
)
RING_GOSSIP_ELEMENTS_MAX: Final = 4 * RING_ENTRIES_MAX  # of all lists and maps of one message
IPAM_TICK_S: Final = 5.0  # between tries of what waits (Weave Net 2.8.1)
IPAM_ALONE_S: Final = 3.0  # that the peers who were named get to appear before a host gives out by itself
CLAIM_TRIES_MAX: Final = 5  # of an address whose owner can't be reached (Weave Net 2.8.1)
ADDRESS_WAIT_S: Final = 30.0  # that a command waits for an address before it says what it waits for
ADDRESS_HOLD_S: Final = 30.0  # that a container's addresses stay its own after its end (Weave Net 2.8.1)
CLAIM_ANSWER_S: Final = 1.0  # that a claim which needn't succeed may take before it goes on by itself
LEAVE_FLUSH_S: Final = 0.2  # until everybody has been sent what this host left to him: some gossip turns
REPAIR_SETTLE_S: Final = 12.0  # that claims after a repair may take: two ticks and a bit
CONTAINERS_SETTLE_S: Final = 0.05  # after news of interfaces: a container that ends takes several along
CONTAINERS_PERIOD_S: Final = 5.0  # between looks for containers that have ended
CONFLICTS_MAX: Final = 8  # with others' rings that are kept to be shown, up to 10 MB each
CONFLICT_KEPT_S: Final = 180.0  # after it was last heard: six rounds of gossip
FORMER_RINGS_MAX: Final = 4  # that a host gave up and would know again
RING_VERSIONS_RESERVED: Final = 16  # of an entry that is ours, used before the ring is saved again
STATES_KNOWN_MAX: Final = 1024  # of others that brought nothing new, known again by their hash

# Leases of the address space (`--reclaim-after`).
RECLAIM_AFTER_MIN_S: Final = (
    120  # half of it must be far longer than a view of the network may lag, about 15 s
)
RECLAIM_AFTER_MAX_S: Final = 30 * 86400
LEASE_MARGIN_S: Final = (
    60.0  # longer than a host's own time that others wait: their views lag, and rings travel
)
LEASE_SETTLE_S: Final = 45.0  # that a peer must be there until its ring is known, with one periodic gossip
LEASE_TICK_S: Final = 5.0  # between looks, and between tries of one proposer
LEASE_GATHER_S: Final = 1.0  # hosts that start together make one change of the roster
LEASE_TURN_S: Final = 10.0  # that a proposer leaves to each one before it
LEASE_HEIRS_MAX: Final = 1024  # peers that were taken over and are remembered
LEASE_VALUES_MAX: Final = (
    64  # different rosters in one message: the one in force and what is proposed at once
)

# Names.
NAMES_MAX: Final = 65536  # entries of all other peers, with those removed lately; also in one message
NAMES_PER_PEER_MAX: Final = 16384  # a host that starts and ends four containers a second for half an hour
NAMES_CHARS_MAX: Final = 6 * 1024 * 1024  # of their texts: 96 of each, as Docker's have; all take 64 MB then
HOSTNAME_CHARS_MAX: Final = 255  # RFC 1035
CONTAINER_CHARS_MAX: Final = 255  # Docker's have 64
NAME_TOMBSTONE_S: Final = 1800  # that a removed name is remembered (Weave Net 2.8.1)
NAME_SWEEP_S: Final = 30.0  # between looks for those that need not be remembered any more, and at our clock
CLOCK_SKEW_MAX_S: Final = 900  # between clocks; a Weave Net router ends the connection for more
CLOCK_JUMP_S: Final = 60.0  # that our clock was set by, at once or slowly, until we try whether others agree
NAME_WAIT_S: Final = 120.0  # that a name waits for its host to be heard of: four rounds of gossip
NAMES_WAITING_MAX: Final = 4096
NAME_CHANGES_MAX: Final = 4096  # that a reader of changes may be behind before he has to read all names again

# gob.
GOB_DEPTH_MAX: Final = 16
GOB_TYPES_MAX: Final = 64
GOB_FIELDS_MAX: Final = 64
GOB_NAME_BYTES_MAX: Final = 256
FEATURES_MAX: Final = 64

# Dialling.
DIAL_TIMEOUT_S: Final = 5.0
DIAL_INTERVAL_FIRST_S: Final = 2.0
DIAL_INTERVAL_MAX_S: Final = 360.0
DIAL_INTERVAL_KEEN_S: Final = 1.0  # for a peer that was lost lately: a healed path carries frames within 5 s
DIAL_KEEN_S: Final = 600.0  # "lately"
DIAL_STABLE_S: Final = 60.0  # a connection that lived this long is redialled at once
TARGETS_MAX: Final = 4096
DISCOVERED_MAX: Final = 4 * TARGETS_MAX  # addresses that we have heard of and may come to dial
DISCOVERY_TURN_CONNECTIONS: Final = 1024  # looked at in one turn, 1 to 3 µs each; the rest waits
DISCOVERY_TURN_S: Final = 0.002  # so long
REMEMBERED_MAX: Final = 64  # addresses of peers that a host which lost them all, or restarts, looks for

# The fastpath overlay.
FASTPATH_VERSION: Final = 1
LINKS_MAX: Final = 4096  # slots in the engine's link table
LANES_MAX: Final = 16  # of a peer
LANES_PER_SHARD: Final = 2  # one for bulk, one for what is quick
SHARDS_MAX: Final = LANES_MAX // LANES_PER_SHARD
HEARTBEAT_FAST_S: Final = 0.5  # until the link is established
HEARTBEAT_S: Final = 3.0
HEARTBEAT_MISSED_S: Final = 4.0  # a second late: ask for a sign of life at the fast rate
HEARTBEAT_SILENT_S: Final = 6.0  # five lost in a row: frames go by sleeve, if it is there
HEARTBEAT_OVERTAKEN_S: Final = (
    1.0  # a heartbeat that says it heard nothing may be older than one that says it did
)
HEARTBEAT_STEADY_S: Final = 2.0  # and return when fastpath has worked both ways for so long
HEARTBEAT_VAIN_S: Final = 30.0  # after so long without success a bad path is tried less often,
HEARTBEAT_VAIN_PERIOD_S: Final = 2.0  # but for ever
HEARTBEAT_TIMEOUT_S: Final = 12.0  # a peer lost without a word is found within 15 s
ESTABLISH_TIMEOUT_S: Final = 60.0  # UDP blocked: as long as Weave Net waits for a heartbeat
REKEY_INTERVAL_S: Final = 120.0
REKEY_ACK_TIMEOUT_S: Final = 30.0  # an announced epoch nobody acknowledged: the link is broken
KEY_LINGER_S: Final = 10.0  # the receiver keeps the previous epoch this long
REKEY_BLOCKS: Final = 1 << 34  # 16-byte AEAD blocks under one key: ask for the next one
OVERLAY_MTU_DEFAULT: Final = 1376  # Weave Net's; leaves room for IPv6, a VLAN tag and our header in 1500
OVERLAY_MTU_MIN: Final = 576
OVERLAY_MTU_MAX: Final = 8950
UNDERLAY_MTU_DEFAULT: Final = 1500
PATH_MTU_MIN: Final = 576  # octets of IP packet that every path is taken to carry (RFC 791)
PATH_MTU_MAX: Final = 9000  # jumbo frames; nobody gains by more
# What paths really have: IPv6's least, tunnels, PPPoE, Ethernet, jumbo frames with and without an outer header.
PATH_MTU_USUAL: Final = (1280, 1400, 1420, 1450, 1480, 1492, 1500, 8950, 9000)
PATH_MTU_STEP: Final = 16  # a search ends when its bounds are this close: a hundredth of a usual packet
PROBE_TIMEOUT_S: Final = 0.5  # longer than the round trip of any path worth using
# A size doesn't fit when so many probes of it in a row were lost (RFC 8899 section 5.1.2), while all but one as many of
# the smallest size arrived: with 3 of 10 datagrams lost each way, one in sixty is misjudged.
PROBES_MAX: Final = 4
PROBES_VAIN_MAX: Final = 24  # when none arrives, of whatever size: for as long as silence ends a link
PATH_MTU_CONFIRM_S: Final = 5.0  # a path that begins to swallow the size in use is noticed within 7.5 s
PATH_MTU_SEARCH_FIRST_S: Final = 15.0  # after a search that ended below the ceiling, doubled each time,
PATH_MTU_SEARCH_S: Final = 600.0  # up to this (RFC 8899 section 5.1.1), and for more than the kernel promised
MAC_AGE_S: Final = 600.0  # Weave Net 2.8.1
MAC_EXPIRE_PERIOD_S: Final = 60.0

# The sleeve overlay. All but SLEEVE_MTU_MIN and the bounds on answers are Weave Net 2.8.1's, so that either end finds
# what the other expects.
SLEEVE_HEARTBEAT_FAST_S: Final = 0.5  # until the peer acknowledges one
SLEEVE_HEARTBEAT_S: Final = 10.0
SLEEVE_TIMEOUT_S: Final = 60.0  # without a heartbeat
SLEEVE_HEARTBEAT_HURRIED_S: Final = (
    1.0  # of ours alone, while frames go by sleeve for want of fastpath, or may soon
)
SLEEVE_STALE_S: Final = 25.0  # two heartbeats lost and a third late: not worth falling back to
SLEEVE_GRACE_S: Final = 3.0  # that fastpath gets at the start before a sleeve that works is used
SLEEVE_FRAGMENTS_TEST_S: Final = 300.0  # between tests whether IP fragments arrive
SLEEVE_TEST_TIMEOUT_S: Final = 0.01  # of the first test of an MTU; doubled for each further one
SLEEVE_TESTS_MAX: Final = 8  # of one MTU, in all 2.55 s: then it doesn't fit
# Answers to a peer's tests, each a message on the control connection, and whoever can send a plain packet can ask: a
# whole search at once, and then as many as a search makes by a path where each answer takes 0.3 s.
SLEEVE_ANSWERS_BURST: Final = 128
SLEEVE_ANSWER_PERIOD_S: Final = 0.04
SLEEVE_MTU_GOOD: Final = 552  # overlay MTU that is taken to fit without a test
SLEEVE_MTU_MIN: Final = 68  # what IPv4 needs of a link (RFC 791); a test is longer than a heartbeat at least
SLEEVE_MTU_MAX: Final = 65535  # until the kernel has said what the path carries
SLEEVE_PAYLOAD_MAX: Final = 65507  # of a UDP datagram over IPv4

# Operator side.
PASSWORD_BITS_WARN: Final = 80.0
READY_TIMEOUT_S: Final = 10.0
CONNECT_WAIT_S: Final = 10.0
ANNOUNCE_POLL_S: Final = 0.25  # between looks whether there is a connection, while there is none
ANNOUNCE_REPEAT_S: Final = 2.0  # RFC 5227: a second announcement two seconds after the first
FIREWALL_CHECK_S: Final = 10.0  # as Weave Net: old iptables says nothing when it is flushed
FIREWALL_SETTLE_S: Final = 1.0  # who loads rules does so in several steps
HTTP_BODY_BYTES_MAX: Final = 64 * 1024
HTTP_TIMEOUT_S: Final = 5.0
CAPTURE_RING_BYTES: Final = 8 * 1024 * 1024  # of each capture: 13 ms of 5 Gb/s
CAPTURE_READ_BYTES: Final = 256 * 1024  # handed on in one turn of the event loop, 0.2 ms
CAPTURE_POLL_S: Final = 0.01  # between looks at an empty ring, while a capture is on: it isn't full by then
TEMPLATE_CHARS_MAX: Final = 4096  # of `report -f`: it travels in the first line of a request, which has 8,190
TEMPLATE_DEPTH_MAX: Final = 32  # of blocks, parentheses and fields in one another
TEMPLATE_WORK_MAX: Final = 1 << 26  # characters handled: the report of 300 peers once, or a second or two

# DNS.
DNS_UDP_QUERY_BYTES_MAX: Final = 512  # one name and an OPT record with room to spare
DNS_TCP_QUERY_BYTES_MAX: Final = 1024
DNS_UDP_PLAIN_BYTES_MAX: Final = 512  # of an answer to a client without EDNS (RFC 1035)
DNS_UDP_ANSWER_BYTES_MAX: Final = 1232  # of any answer: no path of IPv6 has to fragment it
DNS_AMPLIFICATION_MAX: Final = 10  # times the query's octets, for an answer of our own by UDP
DNS_CLIENT_QUERIES_S: Final = 200  # of one client, and at once
DNS_CLIENTS_MAX: Final = 4096  # whose buckets are kept: as many as a host may have containers
DNS_REFUSALS_S: Final = 20  # told to strangers in a second; the others get silence
DNS_TURN_QUERIES: Final = 32  # taken from a socket before others get their turn of the loop, about 1 ms
DNS_TCP_CLIENTS_MAX: Final = 128
DNS_TCP_CLIENTS_PER_SOURCE_MAX: Final = 16
DNS_TCP_IDLE_S: Final = 5.0  # without a complete query, and between two
DNS_TCP_PENDING_MAX: Final = 16  # queries of one connection without an answer; then we read no more
DNS_TCP_BACKLOG_BYTES_MAX: Final = 128 * 1024  # of answers that a client doesn't read: it is cut off
DNS_UPSTREAM_PENDING_MAX: Final = 256  # questions under way to the host's resolvers, each on its own port
DNS_UPSTREAM_WAITING_MAX: Final = 64  # clients that wait for the answer to one question
DNS_UPSTREAM_ALIKE_MAX: Final = 32  # of those, with the same name and type: more is a loop
DNS_UPSTREAM_RESEND_S: Final = 1.0  # until a question is sent again, then twice as long
DNS_UPSTREAM_WRONG_MAX: Final = (
    16  # answers to one question that don't match, until it is asked by TCP instead
)
DNS_UPSTREAM_SERVERS_MAX: Final = 8
DNS_UPSTREAM_TIMEOUT_S: Final = 5.0  # for all of them together (Weave Net 2.8.1)
DNS_UPSTREAM_TIMEOUT_MAX_S: Final = 60.0  # no client waits longer
RESOLV_CONF_PERIOD_S: Final = 5.0  # between looks whether it has changed (Weave Net 2.8.1)
RESOLV_CONF_BYTES_MAX: Final = 64 * 1024
DNS_TTL_DEFAULT_S: Final = 1  # Weave Net 2.8.1
DNS_TTL_MAX_S: Final = 86400
DNS_DOMAIN_CHARS_MAX: Final = 190  # which leaves room for a label of 63 before it
