package config

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// socketMax: sun_path has 107 bytes (unix(7)), and the socket is made under its
// name with a dot and the process ID first.
const socketMax = 107 - len(".4194304")

// Limits of the stack (csrc/ip/ip.h); an interface makes its link-local address itself.
const (
	interfacesMax = 32
	addressesMax  = 15
)

// validate checks what one value alone cannot show.
func (l *loader) validate() {
	l.interfaces()
	l.routes()
	l.listeners()
	l.protocol()
	l.peers()
	l.tls()
	l.exception()
	l.rdma()
	l.gateway()
	c := l.cfg
	if !c.Transport.EncryptionEnabled {
		l.fail(c.Pos("transport.encryption_enabled"), "transport.encryption_enabled: got false, expected true: this version has no unencrypted transport")
	}
	if c.Logging.LogToFile && c.Logging.LogFilePath == "" {
		l.fail(c.Pos("logging.log_file_path"), "logging.log_file_path is empty, expected a path because log_to_file is on")
	}
	if c.Management.Socket == "" {
		l.fail(c.Pos("management.socket"), "management.socket is empty, expected a path")
	}
	for _, s := range [...]struct{ key, path string }{{"management.socket", c.Management.Socket}, {"management.ro_socket", c.Management.ROSocket}} {
		if len(s.path) > socketMax {
			l.fail(c.Pos(s.key), "%s: a path of %d bytes, expected at most %d", s.key, len(s.path), socketMax)
		}
	}
	if c.Management.Socket == c.Management.ROSocket {
		l.fail(c.Pos("management.ro_socket"), "management.ro_socket is the same as socket, expected another path")
	}
	if c.Limits.MemoryMax < c.Limits.MemoryPressure {
		l.fail(c.Pos("limits.tcp_memory_max"), "limits.tcp_memory_max: got %d, expected at least tcp_memory_pressure (%d)", c.Limits.MemoryMax, c.Limits.MemoryPressure)
	}
	if c.Limits.LoansPerCore > c.Limits.BuffersPerCore/2 {
		l.fail(c.Pos("limits.loans_per_core"), "limits.loans_per_core: got %d, expected at most half of buffers_per_core (%d)", c.Limits.LoansPerCore, c.Limits.BuffersPerCore)
	}
}

// unique reports a second entry with the same key.
func (l *loader) unique(seen map[string]string, what, value, path string) {
	if first, dup := seen[value]; dup {
		l.fail(l.cfg.Pos(path), "%s %q is given twice, expected it once (first at %s)", what, value, l.cfg.Pos(first))
		return
	}
	seen[value] = path
}

func (l *loader) interfaces() {
	c := l.cfg
	if len(c.Interfaces) == 0 {
		if len(c.Listeners) > 0 {
			return // on kernel sockets
		}
		at := Pos{Kind: File, Source: l.name}
		l.fail(at, "no [[interface]], expected at least one with name and addresses, or a [[listener]] on kernel sockets (see npd config example)")
		return
	}
	if len(c.Interfaces) > interfacesMax {
		l.fail(c.Pos(fmt.Sprintf("interface[%d].name", interfacesMax)), "[[interface]] number %d, expected %d at most", interfacesMax+1, interfacesMax)
	}
	namesSeen, addrs, defaults := map[string]string{}, map[string]string{}, map[string]string{}
	for i := range c.Interfaces {
		it := &c.Interfaces[i]
		at := fmt.Sprintf("interface[%d]", i)
		l.unique(namesSeen, "interface", it.Label(), at+".name")
		l.sameDevice(i)
		if len(it.Addresses) > addressesMax {
			l.fail(c.Pos(fmt.Sprintf("%s.addresses[%d]", at, addressesMax)), "interface.addresses: %d of %s, expected at most %d",
				len(it.Addresses), it.Label(), addressesMax)
		}
		l.kernelName("interface.name", it.Name, at+".name")
		if it.MTU != 0 && it.MTU < 1280 {
			l.fail(c.Pos(at+".mtu"), "interface.mtu: got %d, expected 0 or at least 1280 (RFC 8200 §5)", it.MTU)
		}
		for j, p := range it.Addresses {
			place := fmt.Sprintf("%s.addresses[%d]", at, j)
			key := p.Addr()
			if key.Is6() && key.IsLinkLocalUnicast() {
				key = key.WithZone(it.Label()) // each link may have it
			}
			l.unique(addrs, "address", key.String(), place)
			if a := p.Addr(); a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
				l.fail(c.Pos(place), "interface.addresses: %s is no address of a host, expected a unicast one", a)
			}
			if a := p.Addr(); a.Is4() && p.Bits() < 31 && a == p.Masked().Addr() {
				l.fail(c.Pos(place), "interface.addresses: %s is the address of the network %s itself, expected one of a host in it", a, p.Masked())
			} else if a.Is4() && p.Bits() < 31 && a == broadcast(p) {
				l.fail(c.Pos(place), "interface.addresses: %s is the broadcast address of %s, expected one of a host in it", a, p.Masked())
			}
		}
		l.device(it, at)
		l.gateways(it, at, defaults)
		l.filter(i)
	}
}

// kernelName checks what is to name an interface of the kernel's, whose files in /sys it names too.
func (l *loader) kernelName(key, name, path string) {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' || r == ':' || r == utf8.RuneError }
	switch {
	case len(name) > 15:
		l.fail(l.cfg.Pos(path), "%s: %q has %d characters, expected at most 15", key, name, len(name))
	case name == "." || name == ".." || strings.ContainsFunc(name, bad):
		l.fail(l.cfg.Pos(path), "%s: got %q, expected a name without blanks, \"/\" and \":\"", key, name)
	}
}

// device checks that a DPDK device is given where it is looked at.
func (l *loader) device(it *Interface, at string) {
	switch b := l.cfg.InterfaceBackend(it); {
	case it.Device != "" && b != "auto" && b != "dpdk":
		l.fail(l.cfg.Pos(at+".device"), "interface.device: %q on backend %s, expected backend dpdk or auto with a device", it.Device, b)
	case strings.ContainsFunc(it.Device, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		l.fail(l.cfg.Pos(at+".device"), "interface.device: %q has blanks, expected a PCI address or a virtual device with its arguments", it.Device)
	case it.ZeroCopy == "must" && (b == "af_packet" || b == "tap"):
		l.fail(l.cfg.Pos(at+".zero_copy"), "interface.zero_copy: must on backend %s, which has none, expected backend af_xdp or auto", b)
	}
}

// Label is the interface's name as the kernel would have it: np0, or np0.100
// for VLAN 100 of np0.
func (i *Interface) Label() string {
	if i.VLAN == 0 {
		return i.Name
	}
	return fmt.Sprintf("%s.%d", i.Name, i.VLAN)
}

// sameDevice checks that the entries of one device say the same of what it has
// only once.
func (l *loader) sameDevice(at int) {
	c := l.cfg
	it := &c.Interfaces[at]
	first := slices.IndexFunc(c.Interfaces, func(o Interface) bool { return o.Name == it.Name })
	if first == at {
		return
	}
	o := &c.Interfaces[first]
	for _, k := range [...]struct {
		key       string
		got, want any
	}{{"mtu", it.MTU, o.MTU}, {"queues", it.Queues, o.Queues}, {"zero_copy", it.ZeroCopy, o.ZeroCopy}, {"xdp_mode", it.XDPMode, o.XDPMode}, {"exception_tap", it.ExceptionTAP, o.ExceptionTAP},
		{"backend", it.Backend, o.Backend}, {"device", it.Device, o.Device}} {
		if k.got != k.want {
			l.fail(c.Pos(fmt.Sprintf("interface[%d].%s", at, k.key)), "interface.%s: %v on %s but %v on %s, expected the same on all VLANs of a device (first at %s)",
				k.key, k.got, it.Label(), k.want, o.Label(), c.Pos(fmt.Sprintf("interface[%d].name", first)))
		}
	}
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|(1<<(32-p.Bits())-1))
	return netip.AddrFrom4(b)
}

func (l *loader) gateways(it *Interface, at string, defaults map[string]string) {
	var v4, v6 bool
	for j, g := range it.Gateway {
		place := fmt.Sprintf("%s.gateway[%d]", at, j)
		on := slices.ContainsFunc(it.Addresses, func(p netip.Prefix) bool { return p.Masked().Contains(g) })
		if !on && !g.IsLinkLocalUnicast() {
			l.fail(l.cfg.Pos(place), "interface.gateway: %s is in none of the interface's networks, expected a neighbor", g)
		}
		if l.ours(g) {
			l.fail(l.cfg.Pos(place), "interface.gateway: %s is the appliance's own address, expected a neighbor", g)
		}
		if g.Is4() && v4 || g.Is6() && v6 {
			l.fail(l.cfg.Pos(place), "interface.gateway: %s is the second of its family, expected one IPv4 and one IPv6 at most", g)
		}
		family := "IPv6 default route"
		if g.Is4() {
			family = "IPv4 default route"
		}
		if first, dup := defaults[family]; dup && first != at {
			l.fail(l.cfg.Pos(place), "interface.gateway: %s is a second %s, expected one on all interfaces (first at %s)", g, family, l.cfg.Pos(first+".gateway"))
		}
		defaults[family] = at
		v4, v6 = v4 || g.Is4(), v6 || g.Is6()
	}
}

// named returns the index of the interface with a label, or of the only one on
// a device; -1.
func (c *Config) named(name string) int {
	if i := slices.IndexFunc(c.Interfaces, func(it Interface) bool { return it.Label() == name }); i >= 0 {
		return i
	}
	on := -1
	for i := range c.Interfaces {
		if c.Interfaces[i].Name != name {
			continue
		}
		if on >= 0 {
			return -1 // which of its VLANs?
		}
		on = i
	}
	return on
}

// RouteInterface returns the index of the interface a route leaves by, -1
// when it names none and its next hop is in no interface's network.
func (c *Config) RouteInterface(r *Route) int {
	if r.Interface != "" {
		return c.named(r.Interface)
	}
	for i := range c.Interfaces {
		if slices.ContainsFunc(c.Interfaces[i].Addresses, func(p netip.Prefix) bool { return r.Via.IsValid() && p.Masked().Contains(r.Via) }) {
			return i
		}
	}
	return -1
}

func (c *Config) labels() []string {
	var out []string
	for i := range c.Interfaces {
		out = append(out, c.Interfaces[i].Label())
	}
	return out
}

func (l *loader) routes() {
	c := l.cfg
	seen := map[string]string{}
	for i := range c.Routes {
		r := &c.Routes[i]
		at := fmt.Sprintf("route_ip[%d]", i)
		l.unique(seen, "route", r.Prefix.String(), at+".prefix")
		if r.Prefix != r.Prefix.Masked() {
			l.fail(c.Pos(at+".prefix"), "route_ip.prefix: %s has bits behind its length, expected %s", r.Prefix, r.Prefix.Masked())
		}
		if r.Via.IsValid() && r.Via.Is4() != r.Prefix.Addr().Is4() {
			l.fail(c.Pos(at+".via"), "route_ip.via: %s is of another family than %s, expected the same", r.Via, r.Prefix)
		}
		if c.RouteInterface(r) >= 0 {
			continue
		}
		if r.Interface != "" {
			l.fail(c.Pos(at+".interface"), "route_ip.interface: no [[interface]] is named %q, expected one of %s", r.Interface, strings.Join(c.labels(), ", "))
		} else {
			l.fail(c.Pos(at), "route_ip %s has no interface and its via is in no interface's network, expected an interface", r.Prefix)
		}
	}
}

func (l *loader) listeners() {
	c := l.cfg
	seen, ports := map[string]string{}, map[string]string{}
	for i := range c.Listeners {
		li := &c.Listeners[i]
		at := fmt.Sprintf("listener[%d]", i)
		l.unique(seen, "listener", li.Name, at+".name")
		place := string(li.Address)
		if li.ByRDMA() {
			place = "rdma " + place // RDMA has ports of its own: a TCP listener beside it serves those who can't
		}
		l.unique(ports, "address", place, at+".address")
		l.shadowed(i)
		l.unixKeys(li, at)
		l.listenerTLS(li, at)
	}
	if len(c.Listeners) == 0 && !c.Server.Address.IsValid() {
		l.fail(c.Pos("server.address"), "no [[listener]] and no server.address, expected one of them")
	}
	for _, li := range c.Listen() {
		path := "server.address"
		if i := slices.IndexFunc(c.Listeners, func(o Listener) bool { return o.Name == li.Name }); i >= 0 {
			path = fmt.Sprintf("listener[%d].address", i)
		}
		l.onBackend(&li, path)
	}
	if c.Dataplane.UDPEchoPort != 0 && c.Dataplane.UDPEchoPort == c.Dataplane.UDPDiscardPort {
		l.fail(c.Pos("dataplane.udp_discard_port"), "dataplane.udp_discard_port: port %d is udp_echo_port already, expected another", c.Dataplane.UDPDiscardPort)
	}
}

// onBackend checks that a listener's address and backend go together.
func (l *loader) onBackend(li *Listener, path string) {
	c := l.cfg
	a := li.Address.AddrPort().Addr()
	switch {
	case !l.cfg.OnKernel(li):
		switch {
		case !a.IsValid():
			l.fail(c.Pos(path), "%s: a Unix socket is the kernel's, expected backend auto, io_uring or epoll instead of stack", li.Address)
		case len(c.Interfaces) == 0:
			l.fail(c.Pos(path), "%s: backend stack without an [[interface]], expected one, or backend auto, io_uring or epoll", li.Address)
		case !a.IsUnspecified() && !c.ours(a):
			l.fail(c.Pos(path), "%s is on no interface, expected an address of an [[interface]] or \":%d\" for all", li.Address, li.Address.AddrPort().Port())
		}
	case a.IsValid() && !a.IsUnspecified() && c.ours(a):
		l.fail(c.Pos(path), "%s is an [[interface]]'s, which the kernel has not, expected backend auto or stack instead of %s", li.Address, li.Backend)
	}
}

// listenerTLS checks that there is what TLS needs.
func (l *loader) listenerTLS(li *Listener, at string) {
	switch {
	case !li.TLS:
	case li.Protocol == "npro":
		l.fail(l.cfg.Pos(at+".tls"), "listener.tls: npro is encrypted by itself, expected TLS only for echo, discard and chargen")
	case len(l.cfg.Certs) == 0:
		l.fail(l.cfg.Pos(at+".tls"), "listener.tls: there is no [[certificate]], expected one (npctl cert generate makes it for development)")
	}
}

// unixKeys checks the keys that only a Unix socket has.
func (l *loader) unixKeys(li *Listener, at string) {
	if li.Address.Path() == "" {
		for _, k := range [...]struct{ key, value, none string }{{"mode", li.Mode, "0660"}, {"owner", li.Owner, ""}, {"group", li.Group, ""}} {
			if k.value != k.none {
				l.fail(l.cfg.Pos(at+"."+k.key), "listener.%s: %s is TCP, expected it only with an address that begins with \"unix:\"", k.key, li.Address)
			}
		}
		return
	}
	if n, err := strconv.ParseUint(li.Mode, 8, 16); err != nil || n > 0o777 {
		l.fail(l.cfg.Pos(at+".mode"), "listener.mode: got %q, expected permissions in octal such as \"0660\"", li.Mode)
	}
	if li.DSCP != 0 {
		l.fail(l.cfg.Pos(at+".dscp"), "listener.dscp: %s sends no packets, expected 0", li.Address)
	}
}

// shadowed reports a listener whose port another one takes on all addresses.
func (l *loader) shadowed(i int) {
	c := l.cfg
	a := c.Listeners[i].Address.AddrPort()
	for j := range c.Listeners[:i] {
		b := c.Listeners[j].Address.AddrPort()
		if !a.IsValid() || !b.IsValid() || c.OnKernel(&c.Listeners[i]) != c.OnKernel(&c.Listeners[j]) ||
			c.Listeners[i].ByRDMA() != c.Listeners[j].ByRDMA() {
			continue // each has ports of its own
		}
		if a != b && a.Port() == b.Port() && (a.Addr().IsUnspecified() || b.Addr().IsUnspecified()) {
			l.fail(c.Pos(fmt.Sprintf("listener[%d].address", i)), "port %d is in use by listener %q (%s), expected a free port",
				a.Port(), c.Listeners[j].Name, c.Pos(fmt.Sprintf("listener[%d].address", j)))
		}
	}
}

func (l *loader) ours(a netip.Addr) bool { return l.cfg.ours(a) }

// ours says whether an interface of the appliance has the address.
func (c *Config) ours(a netip.Addr) bool {
	return slices.ContainsFunc(c.Interfaces, func(it Interface) bool {
		return slices.ContainsFunc(it.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
	})
}

func (l *loader) protocol() {
	c := l.cfg
	p := &c.Protocol
	if p.AllowV1 {
		l.fail(c.Pos("protocol.allow_v1"), "protocol.allow_v1: got true, expected false: this version does not speak version 1 of the protocol")
	}
	psk := slices.Contains(p.Patterns, "NNpsk0")
	if psk && p.PSKFile == "" {
		l.fail(c.Pos("protocol.patterns"), "protocol.patterns has NNpsk0 but there is no psk_file, expected a file with a base64 key")
	}
	if slices.Contains(p.Patterns, "NX") && !p.AllowAnyPeer {
		l.fail(c.Pos("protocol.patterns"), "protocol.patterns has NX, whose clients have no identity, expected allow_any_peer = true with it")
	}
	if len(p.Patterns) == 0 {
		l.fail(c.Pos("protocol.patterns"), "protocol.patterns is empty, expected at least one of XX, IK, NX, NNpsk0")
	}
	if p.PrivateKeyFile == "" {
		l.fail(c.Pos("protocol.private_key_file"), "protocol.private_key_file is empty, expected a path")
	}
	if len(p.AEAD) == 0 {
		l.fail(c.Pos("protocol.aead"), "protocol.aead is empty, expected at least one of aes-256-gcm, xchacha20-poly1305")
	}
	if p.MaxFrame > p.StreamWindow+16 {
		l.fail(c.Pos("protocol.max_frame"), "protocol.max_frame: got %s, expected at most stream_window (%s): a longer frame could never be sent",
			formatSize(p.MaxFrame), formatSize(p.StreamWindow))
	}
	if p.StreamWindow > p.ConnectionWindow {
		l.fail(c.Pos("protocol.stream_window"), "protocol.stream_window: got %s, expected at most connection_window (%s)",
			formatSize(p.StreamWindow), formatSize(p.ConnectionWindow))
	}
	l.opcodes("protocol.any_peer_allow", p.AnyPeerAllow)
	l.opcodes("protocol.psk_allow", p.PSKAllow)
}

func (l *loader) opcodes(path string, list []string) {
	for i, op := range list {
		if op == "" || len(op) > 63 || !utf8.ValidString(op) {
			l.fail(l.cfg.Pos(fmt.Sprintf("%s[%d]", path, i)), "opcode %q, expected 1 to 63 bytes of UTF-8", op)
		}
	}
}

func (l *loader) peers() {
	c := l.cfg
	seen, keys := map[string]string{}, map[string]string{}
	for i := range c.Peers {
		p := &c.Peers[i]
		at := fmt.Sprintf("peer[%d]", i)
		l.unique(seen, "peer", p.Name, at+".name")
		raw, err := base64.StdEncoding.Strict().DecodeString(p.PublicKey)
		if err != nil || len(raw) != 32 {
			l.fail(c.Pos(at+".public_key"), "peer.public_key: not a key, expected 44 characters of base64 as npctl key generate --public prints")
			continue
		}
		l.unique(keys, "public key", p.PublicKey, at+".public_key")
		l.opcodes(at+".allow", p.Allow)
	}
}

func (l *loader) tls() {
	c := l.cfg
	if c.TLS.ClientAuth != "none" && c.TLS.ClientCAFile == "" {
		l.fail(c.Pos("tls.client_auth"), "tls.client_auth is %q but there is no client_ca_file, expected who issues clients' certificates", c.TLS.ClientAuth)
	}
	if c.TLS.ClientAuth == "none" && len(c.TLS.ClientPins) > 0 {
		l.fail(c.Pos("tls.client_pins"), "tls.client_pins without client_auth, expected client_auth = \"require\" or no pins")
	}
	for i, p := range c.TLS.ClientPins {
		if b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p, "sha256/")); err != nil || len(b) != 32 {
			l.fail(c.Pos(fmt.Sprintf("tls.client_pins[%d]", i)), "tls.client_pins: got %q, expected base64 of 32 bytes as npctl cert show prints", p)
		}
	}
	for i, p := range c.TLS.ALPN {
		if p == "" || len(p) > 255 {
			l.fail(c.Pos(fmt.Sprintf("tls.alpn[%d]", i)), "tls.alpn: a name of %d bytes, expected 1 to 255 (RFC 7301 §3.1)", len(p))
		}
	}
	seen := map[string]string{}
	for i := range c.Certs {
		l.unique(seen, "certificate", c.Certs[i].CertFile, fmt.Sprintf("certificate[%d].cert_file", i))
	}
}
