"""Behaviours of np's TCP on the wire, probed with packets that scapy builds and reads.

usage: probe.py INTERFACE SERVER_MAC [SEED]

Run in the client's namespace. The client is made up: 198.18.0.77 and 2001:db8::77, which the kernel
there does not own, so it neither answers nor resets. Prints "ok NAME" or "FAIL NAME: why" for each
case and family; the exit status is 1 when one failed. All addresses are of documentation or benchmark ranges.
"""
import random
import sys
import time

from scapy.all import (ARP, IP, TCP, Ether, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr,
                       IPOption_NOP, IPOption_RR, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting,
                       PadN, Raw, conf, fragment, get_if_hwaddr)

ECHO, DISCARD, CLOSED = 7, 9, 4444
WAIT = 0.5   # an answer that is due at once
QUIET = 0.15  # long enough for an answer that must not come


class Failed(Exception):
    pass


def check(condition, why):
    if not condition:
        raise Failed(why)


class Family:
    """One IP version: how to build packets, and the socket they go by."""

    def __init__(self, version, interface, mac):
        self.version, self.interface, self.server_mac = version, interface, mac
        self.me = {4: "198.18.0.77", 6: "2001:db8::77"}[version]
        self.server = {4: "198.18.0.1", 6: "2001:db8::1"}[version]
        self.mac = get_if_hwaddr(interface)
        self.conns = []
        self.socket = conf.L2socket(iface=interface, filter="arp or host %s or (icmp6 and ip6[40] == 135)" % self.me)

    def ip(self, **fields):
        if self.version == 4:
            return IP(src=self.me, dst=self.server, **fields)
        return IPv6(src=self.me, dst=self.server, **fields)

    def send(self, packet):
        self.socket.send(Ether(src=self.mac, dst=self.server_mac) / packet)

    def introduce(self):
        """Makes the server know our made-up address: it learns who asks for it."""
        if self.version == 4:
            self.socket.send(Ether(src=self.mac, dst="ff:ff:ff:ff:ff:ff") /
                             ARP(op=1, hwsrc=self.mac, psrc=self.me, pdst=self.server))
        else:
            self.socket.send(Ether(src=self.mac, dst="33:33:ff:00:00:01") / IPv6(src=self.me, dst="ff02::1:ff00:1", hlim=255) /
                             ICMPv6ND_NS(tgt=self.server) / ICMPv6NDOptSrcLLAddr(lladdr=self.mac))

    def neighbor(self, frame):
        """Answers a question for our address; true if it was one."""
        if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == self.me:
            self.socket.send(Ether(src=self.mac, dst=self.server_mac) /
                             ARP(op=2, hwsrc=self.mac, psrc=self.me, hwdst=self.server_mac, pdst=self.server))
            return True
        if ICMPv6ND_NS in frame and frame[ICMPv6ND_NS].tgt == self.me:
            self.send(IPv6(src=self.me, dst=frame[IPv6].src, hlim=255) / ICMPv6ND_NA(tgt=self.me, R=0, S=1, O=1) /
                      ICMPv6NDOptDstLLAddr(lladdr=self.mac))
            return True
        return False

    def receive(self, port, timeout):
        """The next TCP segment to one of our ports, None when none comes in time."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            if not self.socket.select([self.socket], left):
                return None
            frame = self.socket.recv()
            if frame is None or frame.src == self.mac or self.neighbor(frame):
                continue
            if TCP in frame and frame[TCP].dport == port:
                return frame
        return None


class Conn:
    """Our end of a connection. seq and ack are what the next segment carries unless told otherwise."""

    def __init__(self, family, port=ECHO, options=(("MSS", 1460),), window=65535):
        self.f, self.dport, self.window = family, port, window
        self.sport = random.randrange(20000, 60000)
        self.seq = self.iss = random.getrandbits(32)
        self.ack = 0
        self.options = list(options)
        family.conns.append(self)

    def segment(self, flags, data=b"", seq=None, ack=None, options=(), window=None, ip=None, **fields):
        t = TCP(sport=self.sport, dport=self.dport, flags=flags, seq=(self.seq if seq is None else seq) % 2**32,
                ack=(self.ack if ack is None else ack) % 2**32, window=self.window if window is None else window,
                options=list(options), **fields)
        return (ip if ip is not None else self.f.ip()) / t / Raw(data) if data else (ip if ip is not None else self.f.ip()) / t

    def send(self, *args, **kwargs):
        self.f.send(self.segment(*args, **kwargs))

    def get(self, timeout=WAIT):
        frame = self.f.receive(self.sport, timeout)
        return frame[TCP] if frame is not None else None

    def need(self, what, timeout=WAIT):
        t = self.get(timeout)
        check(t is not None, "no %s came" % what)
        return t

    def none(self, what):
        t = self.get(QUIET)
        check(t is None, "%s came: %s" % (what, t.summary() if t is not None else ""))

    def open(self, flags="S"):
        self.send(flags, seq=self.iss, ack=0, options=self.options)
        t = self.need("SYN-ACK")
        check(str(t.flags) in ("SA", "SAE"), "flags %s, want SA" % t.flags)
        check(t.ack == (self.iss + 1) % 2**32, "SYN-ACK acknowledges %d, want %d" % (t.ack, self.iss + 1))
        self.seq = (self.iss + 1) % 2**32
        self.irs, self.ack = t.seq, (t.seq + 1) % 2**32
        self.send("A")
        return t

    def read(self, n, timeout=WAIT):
        """n bytes in order, acknowledged; segments without data are skipped."""
        got = b""
        while len(got) < n:
            t = self.need("more than %d of %d bytes" % (len(got), n), timeout)
            data = bytes(t.payload)[:payload_len(t)]
            if data and t.seq == self.ack:
                got += data
                self.ack = (self.ack + len(data)) % 2**32
                self.send("A")
        return got

    def echo(self, data):
        """Sends data and wants it back."""
        self.send("PA", data)
        self.seq = (self.seq + len(data)) % 2**32
        got = self.read(len(data))
        check(got == data, "echoed %r, want %r" % (got[:40], data[:40]))

    def alive(self):
        self.echo(b"still here")

    def end(self):
        """Resets it, wherever it stands: the challenge says what the exact number is (RFC 5961 §3.2)."""
        self.send("R")
        self.send("A")
        for _ in range(20):
            t = self.get(QUIET)
            if t is None or "R" in str(t.flags):
                return
            self.send("R", seq=t.ack)
            self.send("A", seq=t.ack)


def payload_len(t):
    """What the IP header says, for Ethernet pads short frames."""
    ip = t.underlayer
    total = ip.len - ip.ihl * 4 if isinstance(ip, IP) else ip.plen
    return total - t.dataofs * 4


def option(t, name):
    for o in t.options:
        if o[0] == name:
            return o[1]
    return None


# ---- cases: f is the family ----


def options_as_offered(f):
    plain = Conn(f, options=[("MSS", 1460)])
    t = plain.open()
    check(option(t, "MSS") == 1500 - (40 if f.version == 4 else 60), "MSS %s" % option(t, "MSS"))
    for name in ("WScale", "Timestamp", "SAckOK"):
        check(option(t, name) is None, "%s was not offered" % name)
    plain.alive()
    rich = Conn(f, options=[("MSS", 1460), ("SAckOK", b""), ("Timestamp", (77, 0)), ("NOP", None), ("WScale", 7)])
    t = rich.open()
    check(option(t, "WScale") is not None and option(t, "SAckOK") is not None, "options missing: %s" % t.options)
    check(option(t, "Timestamp") is not None and option(t, "Timestamp")[1] == 77, "timestamp not echoed: %s" % t.options)


def unknown_options_pass(f):
    c = Conn(f, options=[(253, b"\x01\x02\x03\x04"), ("MSS", 1460), (77, b"")])
    c.open()
    c.alive()


def broken_options_drop(f):
    for bad in (b"\x02\x00\x05\xb4", b"\x02\x01\x05\xb4", b"\x08\x40\x00\x00", b"\x05\x22\x00\x00"):
        c = Conn(f)
        f.send(with_options(f, c, bad))
        t = c.get(QUIET)
        check(t is None or "R" not in str(t.flags), "reset for options %s" % bad.hex())


def with_options(f, c, options):
    """A SYN with raw option bytes, right checksum."""
    head = TCP(sport=c.sport, dport=c.dport, flags="S", seq=c.iss, window=65535, dataofs=5 + len(options) // 4)
    ip = f.ip()
    # scapy's checksum is over the header and what follows; the options are its payload here
    return ip / head / Raw(options)


def reversed_bytes(f):
    c = Conn(f, options=[("MSS", 1460), ("SAckOK", b"")])
    c.open()
    data = bytes(range(48, 64))
    for i in reversed(range(len(data))):
        c.send("PA", data[i:i + 1], seq=c.seq + i)
    c.seq += len(data)
    got = c.read(len(data))
    check(got == data, "got %r" % got)
    c.alive()


def overlaps(f):
    c = Conn(f)
    c.open()
    data = b"0123456789abcdefghij"
    for a, b in ((5, 12), (8, 20), (2, 9), (0, 4)):
        c.send("PA", data[a:b], seq=c.seq + a)
    c.seq += len(data)
    got = c.read(len(data))
    check(got == data, "got %r" % got)
    c.alive()


def sack_blocks(f):
    c = Conn(f, options=[("MSS", 1460), ("SAckOK", b"")])
    c.open()
    c.send("A", b"x" * 10, seq=c.seq + 100)
    t = c.need("duplicate ACK")
    check(t.ack == c.seq % 2**32, "acknowledges %d, want %d" % (t.ack, c.seq))
    edges = option(t, "SAck")
    check(edges is not None and edges[0] == (c.seq + 100) % 2**32 and edges[1] == (c.seq + 110) % 2**32, "SACK %s" % (edges,))


def dsack_for_old_data(f):
    c = Conn(f, options=[("MSS", 1460), ("SAckOK", b"")])
    c.open()
    c.echo(b"once")
    c.send("PA", b"once", seq=c.seq - 4)
    t = c.need("ACK")
    check(t.ack == c.seq % 2**32, "acknowledges %d" % t.ack)
    edges = option(t, "SAck")
    check(edges is not None and edges[0] == (c.seq - 4) % 2**32, "RFC 2883: D-SACK %s" % (edges,))
    c.alive()


def resets(f):
    c = Conn(f)
    c.open()
    c.send("R", seq=c.seq + 70000)
    c.none("an answer to a reset outside the window")
    c.send("R", seq=c.seq + 10)
    t = c.need("challenge ACK (RFC 5961 §3)")
    check(str(t.flags) == "A" and t.ack == c.seq % 2**32, "challenge %s" % t.summary())
    c.alive()
    c.send("R", seq=c.seq)
    c.send("PA", b"gone?")
    t = c.need("reset for a connection that is gone")
    check("R" in str(t.flags), "flags %s" % t.flags)


def syn_in_connection(f):
    c = Conn(f)
    c.open()
    for seq in (c.seq, c.seq + 5, c.seq - 1000, random.getrandbits(32)):
        c.send("S", seq=seq, ack=0)
    t = c.need("challenge ACK (RFC 5961 §4)")
    check(str(t.flags) == "A" and t.ack == c.seq % 2**32, "challenge %s" % t.summary())
    while c.get(QUIET) is not None:
        pass
    c.alive()


def wild_acks(f):
    c = Conn(f)
    c.open()
    c.send("A", ack=c.ack + 100000)
    t = c.need("ACK (RFC 5961 §5)")
    check(str(t.flags) == "A", "flags %s" % t.flags)
    c.send("PA", b"never", ack=c.ack - 2**30)
    while (t := c.get(QUIET)) is not None:
        check(payload_len(t) == 0, "data behind a wild ACK was taken")
    c.alive()


def old_timestamps(f):
    c = Conn(f, options=[("MSS", 1460), ("Timestamp", (100000, 0))])
    t = c.open()
    ts = option(t, "Timestamp")
    c.send("PA", b"new", options=[("NOP", None), ("NOP", None), ("Timestamp", (100010, ts[0]))])
    c.seq += 3
    t = c.need("echo")
    check(payload_len(t) == 3 and option(t, "Timestamp")[1] == 100010, "timestamps %s" % t.options)
    c.ack = (c.ack + 3) % 2**32
    c.send("PA", b"old", options=[("NOP", None), ("NOP", None), ("Timestamp", (99000, ts[0]))])
    t = c.need("ACK (PAWS, RFC 7323 §5.3)")
    check(t.ack == c.seq % 2**32, "a segment with an old timestamp was taken")


def closed_window(f):
    c = Conn(f, window=0)
    c.open()
    data = b"w" * 2000
    c.send("A", data[:1000])
    c.send("PA", data[1000:], seq=c.seq + 1000)
    c.seq += len(data)
    t = c.need("ACK")
    while payload_len(t) == 0:
        t = c.need("window probe", 2)
    check(payload_len(t) <= 1, "%d bytes into a closed window" % payload_len(t))
    c.window = 65535
    c.send("A")
    got = c.read(len(data), 2)
    check(got == data, "%d bytes, or other ones" % len(got))


def small_segments(f):
    c = Conn(f, options=[("MSS", 300)])
    c.open()
    c.send("PA", b"m" * 1000)
    c.seq += 1000
    got = b""
    while len(got) < 1000:
        t = c.need("echo")
        check(payload_len(t) <= 300, "%d bytes in a segment, MSS is 300" % payload_len(t))
        if payload_len(t) and t.seq == c.ack:
            got += bytes(t.payload)[:payload_len(t)]
            c.ack = (c.ack + payload_len(t)) % 2**32
            c.send("A")
    check(got == b"m" * 1000, "other bytes")


def syn_with_data(f):
    c = Conn(f)
    c.send("S", b"early", seq=c.iss, ack=0, options=c.options)
    t = c.need("SYN-ACK")
    check(t.ack in ((c.iss + 1) % 2**32, (c.iss + 6) % 2**32), "acknowledges %d" % t.ack)
    taken = (t.ack - c.iss - 1) % 2**32
    c.seq, c.ack = t.ack, (t.seq + 1) % 2**32
    c.send("PA", b"early"[taken:])
    c.seq += 5 - taken
    check(c.read(5) == b"early", "other bytes")


def syn_ack_again(f):
    c = Conn(f)
    c.send("S", seq=c.iss, ack=0, options=c.options)
    first = c.need("SYN-ACK")
    again = c.need("SYN-ACK sent again", 2.5)
    check(again.seq == first.seq and again.ack == first.ack, "another SYN-ACK: %s" % again.summary())
    c.seq, c.ack = c.iss + 1, (first.seq + 1) % 2**32
    c.send("A")
    c.alive()


def half_close(f):
    c = Conn(f)
    c.open()
    c.send("FPA", b"last words")
    c.seq += 11
    got, ended = b"", False
    while not ended:
        t = c.need("echo and FIN")
        if t.seq == c.ack:
            got += bytes(t.payload)[:payload_len(t)]
            c.ack = (c.ack + payload_len(t)) % 2**32
            if "F" in str(t.flags):
                ended, c.ack = True, (c.ack + 1) % 2**32
    check(got == b"last words", "got %r before the FIN" % got)
    c.send("A")
    c.none("something behind the last ACK")


def fin_again(f):
    c = Conn(f)
    c.open()
    c.send("FA")
    c.seq += 1
    t = c.need("FIN")
    while "F" not in str(t.flags):
        t = c.need("FIN")
    again = c.need("FIN sent again", 2)
    check("F" in str(again.flags) and again.seq == t.seq, "another segment: %s" % again.summary())
    c.send("A", ack=again.seq + 1)


def urgent(f):
    c = Conn(f)
    c.open()
    c.send("PAU", b"urgent", urgptr=3)
    c.seq += 6
    check(c.read(6) == b"urgent", "urgent bytes are not in line (RFC 6093)")


def ecn(f):
    c = Conn(f)
    c.send("SEC", seq=c.iss, ack=0, options=c.options)
    t = c.need("SYN-ACK")
    check(str(t.flags) in ("SA", "SAE"), "flags %s" % t.flags)
    c.seq, c.ack = c.iss + 1, (t.seq + 1) % 2**32
    c.send("A")
    agreed = "E" in str(t.flags)
    ip = f.ip(tos=3) if f.version == 4 else f.ip(tc=3)
    c.send("PA", b"congested", ip=ip)
    c.seq += 9
    t = c.need("ACK")
    check(not agreed or "E" in str(t.flags), "CE was not echoed (RFC 3168 §6.1.3)")
    while payload_len(t) == 0:
        t = c.need("echo")


def wrong_checksum(f):
    c = Conn(f)
    c.open()
    c.send("PA", b"wrong", chksum=0x1234)
    c.none("an answer to a wrong checksum")
    c.alive()


def land(f):
    """Our own address and port as the source: no answer, to anybody."""
    ip = f.ip()
    ip.src = f.server
    f.send(ip / TCP(sport=ECHO, dport=ECHO, flags="S", seq=1))
    c = Conn(f)
    c.open()
    c.alive()


def christmas_tree(f):
    for flags in ("FPU", "", "F", "SF", "SFPU"):
        c = Conn(f, port=CLOSED)
        c.send(flags, seq=c.iss, ack=0)
        t = c.need("reset for %s to a closed port" % (flags or "no flag"))
        check(str(t.flags) == "RA" and t.seq == 0, "answer %s" % t.summary())
        c = Conn(f)
        c.send(flags, seq=c.iss, ack=0)
        c.none("an answer to %s at a listener" % (flags or "no flag"))


def fragments(f):
    """In fragments, out of order; and whole, which counts where fragments are not put together."""
    c = Conn(f)
    c.open()
    data = bytes(range(256)) * 4
    if f.version == 4:
        pieces = fragment(c.segment("PA", data), fragsize=256)
        for p in reversed(pieces):
            f.send(p)
    if c.get(WAIT) is None:
        c.send("PA", data)
    c.seq += len(data)
    c.send("PA", data, seq=c.seq - len(data))
    c.seq = c.seq % 2**32
    while c.get(QUIET) is not None:
        pass


def ip_options(f):
    c = Conn(f)
    c.open()
    if f.version == 4:
        c.send("PA", b"options", ip=f.ip(options=[IPOption_NOP(), IPOption_RR(length=7, pointer=4, routers=["0.0.0.0"])]))
    else:
        c.send("PA", b"options", ip=f.ip() / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) /
               IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]))
    t = c.get(WAIT)
    if t is None:  # dropped is allowed; then it must be as if it had been lost
        c.send("PA", b"options")
    c.seq += 7
    while c.get(QUIET) is not None:
        pass


def source_route(f):
    """A routing header of type 0 must not be followed (RFC 5095); a packet with it must not be taken."""
    if f.version == 4:
        return
    c = Conn(f)
    c.open()
    c.send("PA", b"routed", ip=f.ip() / IPv6ExtHdrRouting(type=0, segleft=1, addresses=["2001:db8::99"]))
    t = c.get(QUIET)
    check(t is None or payload_len(t) == 0, "data behind a source route was taken")
    c.alive()


CASES = [options_as_offered, unknown_options_pass, broken_options_drop, reversed_bytes, overlaps, sack_blocks, dsack_for_old_data,
         resets, syn_in_connection, wild_acks, old_timestamps, closed_window, small_segments, syn_with_data, syn_ack_again, half_close,
         fin_again, urgent, ecn, wrong_checksum, land, christmas_tree, fragments, ip_options, source_route]


def main():
    interface, mac = sys.argv[1], sys.argv[2]
    random.seed(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    conf.verb = 0
    failed = 0
    for version in (4, 6):
        f = Family(version, interface, mac)
        for case in CASES:
            f.introduce()
            try:
                case(f)
                print("ok   IPv%d %s" % (version, case.__name__))
            except Failed as why:
                failed += 1
                print("FAIL IPv%d %s: %s" % (version, case.__name__, why))
            while f.conns:
                f.conns.pop().end()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
