package daemon

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
)

// Behind one address, as a carrier's NAT, a member may log in as often as it likes,
// and over WebSocket too; strangers, who wait in the lobby, have a burst.
func TestMembersBehindOneAddressNeverCount(t *testing.T) {
	const burst = 5
	mine := key.NewPrivate()
	b := mustBuild(t, settings(t, func(c *config.Config) {
		c.TLS = false
		c.AdmitKey, c.ProxyProtocol = []string{mine.Public().String()}, []string{"127.0.0.1"}
		c.LoginRate, c.LoginBurst = 1, burst
	}))
	b.run()
	for i := range 4 * burst {
		if err := b.visitBehindProxy(mine, i%2 == 1); err != nil {
			t.Fatalf("login %d of a member: %v", i+1, err)
		}
	}
	in := 0
	for range 4 * burst {
		if b.visitBehindProxy(key.NewPrivate(), false) == nil {
			in++
		}
	}
	if in < burst-1 || in > 2*burst { // one more each second
		t.Errorf("%d logins of strangers, want about %d", in, burst)
	}
	if got := b.Stats().Listen; got.RefusedRate != uint64(4*burst-in) {
		t.Errorf("%d strangers in, listen %+v", in, got)
	}
}

// visitBehindProxy logs in, by a proxy, as somebody at 198.51.100.7, and leaves when
// the relay has let it in or to the lobby.
func (b *bed) visitBehindProxy(k key.Private, webSocket bool) error {
	o := b.options()
	o.Plain, o.Key, o.WebSocket, o.CertName = true, k, webSocket, ""
	c, err := b.dialWith(o, func(context.Context) (net.Conn, error) {
		c, err := net.Dial("tcp", b.Config().Listen)
		if err == nil {
			_, err = io.WriteString(c, "PROXY TCP4 198.51.100.7 203.0.113.1 4711 80\r\n")
		}
		return c, err
	})
	if err != nil {
		return err
	}
	var reading sync.WaitGroup
	reading.Go(func() { drain(c) })
	defer reading.Wait()
	defer c.Close()
	_, err = c.Ping(b.t.Context()) // the login is over, and the front door has been told
	return err
}

// drain reads until the connection ends.
func drain(c *client.Client) {
	for {
		if _, err := c.Recv(); err != nil {
			return
		}
	}
}

// A program decides, and has its way with who is connected.
func TestExecSource(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the program is a shell script")
	}
	dir := t.TempDir()
	members, program := filepath.Join(dir, "members"), filepath.Join(dir, "may-connect")
	ann, bob := key.NewPrivate(), key.NewPrivate()
	write(t, members, ann.Public().String()+"\n")
	write(t, program, "#!/bin/sh\nexec grep -q \"^$1\" "+members+"\n") // grep's status: 0 found, 1 not, 2 cannot tell
	if err := os.Chmod(program, 0o700); err != nil {
		t.Fatal(err)
	}
	b := mustBuild(t, settings(t, func(c *config.Config) { c.Admit = []string{"exec=" + program + ",allow_for=20ms,refuse_for=20ms"} }))
	b.run()
	a, o := b.visit(ann), b.visit(bob)
	in := func(k key.Private) int { _, in, _ := b.status(k.Public()); return in }
	await(t, "the member is in, the stranger waits", func() bool {
		_, _, waiting := b.status(bob.Public())
		return in(ann) == 1 && waiting == 1
	})
	write(t, members, ann.Public().String()+"\n"+bob.Public().String()+"\n")
	await(t, "the other one is in", func() bool { b.gate.Changed(); return in(bob) == 1 })
	if err := os.Remove(members); err != nil {
		t.Fatal(err)
	}
	await(t, "the program's trouble shows", func() bool { b.gate.Changed(); return len(b.gate.Stats().Tenants[0].Troubles) == 1 })
	if _, ended := a.state(); ended {
		t.Error("a member was cut off because the program cannot tell")
	}
	write(t, members, ann.Public().String()+"\n")
	await(t, "who is no member any more is cut off", func() bool { b.gate.Changed(); _, ended := o.state(); return ended })
}

// What one server said is not another's word, whatever both are called; how it is
// asked does not matter.
func TestMemoryOf(t *testing.T) {
	entry := func(text string) config.Entry {
		return mustBuild(t, settings(t, func(c *config.Config) { c.Admit = []string{text} })).cfg.Tenants()[0].Entries[0]
	}
	const base = "tailscale=-,name=main,key_env=A"
	for text, same := range map[string]bool{
		base: true, base + ",refresh=9s,max_age=1h,on_unavailable=refuse": true,
		"tailscale=x,name=main,key_env=A": false, "tailscale=-,name=main,key_env=B": false, base + ",base_url=https://x": false, base + ",expired=admit": false,
	} {
		if got := memoryOf("", entry(text)) == memoryOf("", entry(base)); got != same {
			t.Errorf("%s: the same %v", text, got)
		}
	}
	if memoryOf("a", entry(base)) == memoryOf("b", entry(base)) {
		t.Error("two tenants' answers are one")
	}
	if strings.Contains(memoryOf("", entry("url=https://u:s3cret@h/p")), "s3cret") {
		t.Error("a secret shows")
	}
}
