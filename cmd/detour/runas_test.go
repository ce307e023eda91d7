package main

import (
	"slices"
	"testing"

	"github.com/detour-relay/detour/internal/config"
)

func TestPlanEstate(t *testing.T) {
	var c config.Config
	c.StateDir, c.CertMode, c.TLS = "/state", config.CertACME, true
	c.Listen, c.AlsoListen = "unix:/run/relay", []string{"unix:/run/also,mode=0600", ":8443"}
	c.HTTPListen, c.AdminListen = "unix:/run/http,mode=0666", "unix:/run/admin"
	p := planEstate(c, true)
	slices.Sort(p.Makes)
	if want := []string{"/run/admin", "/run/also", "/run/http", "/run/relay"}; !slices.Equal(p.Makes, want) {
		t.Errorf("sockets %q, want %q", p.Makes, want)
	}
	if !p.Shared || !slices.Equal(p.Fills, []string{"/state/acme"}) {
		t.Errorf("plan %+v", p)
	}
}
