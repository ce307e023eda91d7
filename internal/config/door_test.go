package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestCheckDoor(t *testing.T) {
	checkAll(t, func(s string) []fault { return checkDoor("listen", s, "443") }, []verdict{
		{"off", ""},
		{":443", ""},
		{"unix:/run/x", ""},
		{"unix:/run/x,mode=0600", ""},
		{"systemd", ""},
		{"systemd:relay", ""},
		{"unix:", "write a path"},
		{"unix:~/x", "whole path"},
		{"unix:/x,mode=rw", "write it as for chmod"},
		{"unix:/x,mode=0", "write it as for chmod"},
		{"unix:/x,mode=1777", "write it as for chmod"},
		{"unix:/x,tls=off", "give it as a setting of its own"},
		{"systemd:a b", "names no socket"},
		{"systemd,mode=0600", "mode is for unix sockets"},
		{":443,tls=off", "0..65535"},
	})
}

func TestCheckAlso(t *testing.T) {
	checkAll(t, func(s string) []fault { return checkAlsoListen(strings.Split(s, " ")) }, []verdict{
		{":8443", ""},
		{"0.0.0.0:8443 [::]:8443", ""},
		{":8443,tls=off,proxy_protocol=10.0.0.0/8|192.0.2.7+2001:db8::/32", ""},
		{":8443,tls=on,map=off", ""},
		{":8443 tls=off map=off :9443", ""}, // cut at its commas
		{"unix:/run/x,tls=off,mode=0666,proxy_protocol=unix", ""},
		{"unix:/run/x,map=on,public_port=443", ""},
		{"unix:/run/x,map=on", "public_port="},
		{"systemd:spare,public_port=8443", ""},
		{"off", "remove the entry"},
		{"8443", "write :8443"},
		{":8443,tls=maybe", "want true or false"},
		{":8443,tsl=off", "did you mean tls?"},
		{":8443,tls", "write tls=VALUE"},
		{":8443,public_port=0", "1..65535"},
		{":8443,public_port=70000", "1..65535"},
		{":8443,proxy_protocol=10.0.0.1/8", "write 10.0.0.0/8, or 10.0.0.1"},
		{":8443,proxy_protocol=proxy.example.com", "is not a network"},
		{":8443,proxy_protocol=::ffff:0:0/96", "write it as IPv4"},
		{":8443,mode=0600", "mode is for unix sockets"},
		{"tls=off", "is not HOST:PORT"},
		{strings.TrimSpace(strings.Repeat(":0 ", 17)), "remove some"},
	})
	checkAll(t, func(s string) []fault { return checkAlsoSTUN(strings.Split(s, " ")) }, []verdict{
		{":3479 192.0.2.1:3478", ""}, {"systemd:stun", ""}, {"off", "remove the entry"}, {"unix:/x", "no UDP address"}, {"3479", "write :3479"},
	})
	for n, right := range map[int]bool{-1: false, 0: true, 443: true, 65535: true, 65536: false} {
		if got := len(checkPublicPort(n)) == 0; got != right {
			t.Errorf("port %d: right %v, want %v", n, got, right)
		}
	}
}

func TestDoors(t *testing.T) {
	c := Defaults(rootHost)
	c.Listen, c.PublicPort, c.ProxyProtocol = "unix:/run/a,mode=0600", 443, []string{"unix", "192.0.2.7", "10.0.0.0/8"}
	c.AlsoListen = []string{":8443", "tls=off", ":9443,tls=off,map=on,public_port=8", "unix:/run/b"}
	var got []string
	for _, d := range c.Doors() {
		got = append(got, fmt.Sprintf("%s %s tls %t proxies %v unix %t map %t port %d mode %o",
			d.Setting, d.Address, d.TLS, d.ProxyProtocol, d.ProxyUnix, d.InMap, d.PublicPort, d.Mode))
	}
	want := []string{
		"listen unix:/run/a tls true proxies [192.0.2.7/32 10.0.0.0/8] unix true map true port 443 mode 600",
		"also_listen :8443 tls false proxies [] unix false map false port 0 mode 0",
		"also_listen :9443 tls false proxies [] unix false map true port 8 mode 0",
		"also_listen unix:/run/b tls true proxies [] unix false map false port 0 mode 0",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !c.AnyTLS() {
		t.Error("no TLS")
	}
	c.Listen = Off
	if len(c.Doors()) != 0 || c.AnyTLS() {
		t.Error("doors of a relay that is off")
	}
}
