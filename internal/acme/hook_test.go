//go:build unix

package acme

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	acmewire "github.com/mholt/acmez/v3/acme"
)

func TestHook(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		limit        time.Duration
		want         []string // of the error; none: success
	}{
		{name: "success", script: `echo "$@" >"$0.calls"`, limit: time.Minute},
		{name: "failure", script: "echo first; echo no such zone >&2; exit 3", limit: time.Minute, want: []string{"present _acme-challenge.relay.example", "exit status 3", "it said: no such zone"}},
		{name: "too slow", script: "exec sleep 60", limit: 50 * time.Millisecond, want: []string{"longer than 50ms"}},
		{name: "much output", script: "yes | head -c 100000; exit 1", limit: time.Minute, want: []string{"it said: y"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "hook")
			if err := os.WriteFile(program, []byte("#!/bin/sh\n"+tt.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			h := &hook{program: program, limit: tt.limit, log: slog.New(slog.DiscardHandler)}
			c := acmewire.Challenge{Identifier: acmewire.Identifier{Type: "dns", Value: "relay.example"}, KeyAuthorization: "key"}
			err := h.Present(t.Context(), c)
			if (err != nil) != (tt.want != nil) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
			if err := h.CleanUp(t.Context(), c); err != nil {
				t.Errorf("cleaning up must not lose a certificate: %v", err)
			}
			if tt.want == nil {
				calls, _ := os.ReadFile(program + ".calls")
				if got := strings.TrimSpace(string(calls)); got != "cleanup _acme-challenge.relay.example "+c.DNS01KeyAuthorization() {
					t.Errorf("called with %q", got)
				}
			}
		})
	}
}

func TestHookThatIsMissing(t *testing.T) {
	h := &hook{program: "/no/such/program", limit: time.Minute, log: slog.New(slog.DiscardHandler)}
	err := h.Present(t.Context(), acmewire.Challenge{Identifier: acmewire.Identifier{Value: "relay.example"}})
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("got %v", err)
	}
}
