package config

import (
	"fmt"
	"slices"
)

// Exception is [exception]: what the kernel gets of the devices.
type Exception struct {
	Enabled    bool  `key:"enabled" default:"true" doc:"a device that only the appliance drives (dpdk) gets a TAP beside it, by which the kernel has its own addresses there, SSH and routing daemons"`
	Rate       int   `key:"rate" default:"100000" min:"0" max:"10000000" doc:"packets a second to the kernel by the TAPs, all together; 0 no limit"`
	KernelRate int   `key:"kernel_rate" default:"0" min:"0" max:"10000000" doc:"frames a second to the kernel on each device of its own, where the XDP program passes them (af_xdp); 0 no limit"`
	TCPPorts   []int `key:"tcp_ports" default:"" min:"1" max:"65535" doc:"of the appliance's addresses too these stay with the kernel, which must have the addresses as well; one below 1024 also as the peer's, for what the kernel opens ([22, 179]: SSH and BGP)"`
	UDPPorts   []int `key:"udp_ports" default:"" min:"1" max:"65535" doc:"likewise"`
	Protocols  []int `key:"protocols" default:"" min:"1" max:"255" doc:"IP protocols, likewise ([89, 112]: OSPF and VRRP)"`
}

// Limits of dataplane.ExceptionConfig.
const (
	exceptionPortsMax     = 32
	exceptionProtocolsMax = 16
)

// TAP is the name of the TAP beside an interface's device, unless it is of the kernel's
// anyway.
func (i *Interface) TAP() string {
	if i.ExceptionTAP != "" {
		return i.ExceptionTAP
	}
	return i.Name + "x"
}

func (l *loader) exception() {
	x := &l.cfg.Exception
	for _, list := range [...]struct {
		key string
		n   []int
		max int
	}{{"tcp_ports", x.TCPPorts, exceptionPortsMax}, {"udp_ports", x.UDPPorts, exceptionPortsMax}, {"protocols", x.Protocols, exceptionProtocolsMax}} {
		at := "exception." + list.key
		if len(list.n) > list.max {
			l.fail(l.cfg.Pos(at), "%s: %d of them, expected at most %d", at, len(list.n), list.max)
		}
		for i, n := range list.n {
			if slices.Index(list.n, n) != i {
				l.fail(l.cfg.Pos(fmt.Sprintf("%s[%d]", at, i)), "%s: %d is listed twice, expected it once", at, n)
			}
			if list.key == "protocols" && (n == 6 || n == 17) {
				l.fail(l.cfg.Pos(fmt.Sprintf("%s[%d]", at, i)), "%s: got %d, expected TCP and UDP by tcp_ports and udp_ports", at, n)
			}
		}
	}
	l.ownPorts()
	taps := map[string]string{}
	for i := range l.cfg.Interfaces {
		it := &l.cfg.Interfaces[i]
		at := fmt.Sprintf("interface[%d].exception_tap", i)
		if it.ExceptionTAP == "" {
			continue
		}
		l.kernelName("interface.exception_tap", it.ExceptionTAP, at)
		if slices.ContainsFunc(l.cfg.Interfaces, func(o Interface) bool { return o.Name == it.ExceptionTAP }) {
			l.fail(l.cfg.Pos(at), "interface.exception_tap: %q is an [[interface]], expected another name", it.ExceptionTAP)
		}
		l.unique(taps, "interface.exception_tap", it.ExceptionTAP, at)
	}
}

// ownPorts refuses what nobody could reach: a listener of the appliance's on a port that
// the kernel gets.
func (l *loader) ownPorts() {
	c := l.cfg
	if len(c.Listeners) == 0 && slices.Contains(c.Exception.TCPPorts, int(c.Server.Address.Port())) {
		l.fail(c.Pos("exception.tcp_ports"), "exception.tcp_ports: %d is the port of server.address, expected one that the appliance does not serve", c.Server.Address.Port())
	}
	for _, li := range c.Listeners {
		if !c.OnKernel(&li) && slices.Contains(c.Exception.TCPPorts, int(li.Address.AddrPort().Port())) {
			l.fail(c.Pos("exception.tcp_ports"), "exception.tcp_ports: %d is the port of listener %q, expected one that the appliance does not serve", li.Address.AddrPort().Port(), li.Name)
		}
	}
	for _, u := range [...]struct {
		key  string
		port int
	}{{"udp_echo_port", c.Dataplane.UDPEchoPort}, {"udp_discard_port", c.Dataplane.UDPDiscardPort}} {
		if u.port != 0 && slices.Contains(c.Exception.UDPPorts, u.port) {
			l.fail(c.Pos("exception.udp_ports"), "exception.udp_ports: %d is dataplane.%s, expected one that the appliance does not serve", u.port, u.key)
		}
	}
}
