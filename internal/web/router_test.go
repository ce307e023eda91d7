package web

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
)

// routerFunc is a Router.
type routerFunc func(raw net.Conn) ([]byte, func(context.Context, func()))

func (f routerFunc) Look(raw net.Conn) ([]byte, func(context.Context, func())) { return f(raw) }

func TestRouter(t *testing.T) {
	config, pool := serverTLS(t)
	t.Run("ours", func(t *testing.T) {
		b := newBed(t, Options{TLS: config, Router: routerFunc(func(raw net.Conn) ([]byte, func(context.Context, func())) {
			first := make([]byte, 7)
			_, _ = io.ReadFull(raw, first)
			return first, nil
		})})
		c := tls.Client(b.tcp(), &tls.Config{RootCAs: pool, ServerName: "relay.test"})
		write1(t, c, "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\n\r\n")
		expect(t, c, switching+greeting)
	})
	t.Run("another's", func(t *testing.T) {
		b := newBed(t, Options{TLS: config, Router: routerFunc(func(raw net.Conn) ([]byte, func(context.Context, func())) {
			return nil, func(_ context.Context, ready func()) { ready(); _, _ = io.WriteString(raw, "site") }
		})})
		got, err := io.ReadAll(b.tcp())
		if err != nil || string(got) != "site" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("nothing comes", func(t *testing.T) {
		b := newBed(t, Options{TLS: config, Router: routerFunc(func(raw net.Conn) ([]byte, func(context.Context, func())) {
			_, _ = raw.Read(make([]byte, 1))
			return nil, nil
		})})
		c := b.tcp()
		b.stop() // does not wait for greetLimit
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is served")
		}
	})
}

func TestPlainConnectionsAreNotRouted(t *testing.T) {
	b := newBed(t, Options{Router: routerFunc(func(net.Conn) ([]byte, func(context.Context, func())) {
		t.Error("the router is asked")
		return nil, nil
	})})
	b.ask("GET /derp/probe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}
