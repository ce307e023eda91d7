package compat

import (
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/config"
)

func TestAcceptRate(t *testing.T) {
	for _, tt := range []struct {
		args         string
		rate, burst  int
		warning, err string
	}{
		{args: "-accept-connection-limit=10 -accept-connection-burst=20", rate: 10, burst: 20},
		{args: "-accept-connection-limit=0.5 -accept-connection-burst=1", rate: 1, burst: 1, warning: "rounded up to 1"},
		{args: "-accept-connection-limit=10", warning: "limits nothing without -accept-connection-burst"},
		{args: "-accept-connection-burst=20"},
		{args: "-accept-connection-limit=0 -accept-connection-burst=1", err: "let nobody in; hint: give both"},
		{args: "-accept-connection-limit=NaN", err: "let nobody in"},
		{args: "-accept-connection-limit=1 -accept-connection-burst=0", err: "let nobody in"},
	} {
		c := command{}
		c.set = c.register("", "")
		if err := c.set.Parse(strings.Fields(tt.args)); err != nil {
			t.Fatal(err)
		}
		var cfg config.Config
		c.acceptRate(&cfg)
		if cfg.AcceptRate != tt.rate || cfg.AcceptBurst != tt.burst {
			t.Errorf("%s: %d a second, %d at once", tt.args, cfg.AcceptRate, cfg.AcceptBurst)
		}
		if got := strings.Join(c.warnings, "\n"); (tt.warning == "") != (got == "") || !strings.Contains(got, tt.warning) {
			t.Errorf("%s: warnings %q, want %q", tt.args, got, tt.warning)
		}
		if (tt.err == "") != (len(c.problems) == 0) || tt.err != "" && !strings.Contains(c.problems[0].Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.args, c.problems, tt.err)
		}
	}
}
