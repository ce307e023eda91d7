package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/admin"
)

// shownDigits is how much of a key detour status and detour admit pending write.
const shownDigits = 8

// shownPeers is how many peers detour status lists unless it is told --all.
const shownPeers = 50

func statusCommand() *cobra.Command {
	var all, long bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the running relay: health, who may connect, who is connected",
		Long:  "Show the running relay: its health, who may connect, and who is connected or waits. Takes the flags of `detour serve`;\n--state-dir, --admin-listen and --config tell it where to ask.",
		Args:  noArguments(),
	}
	a := bindAsking(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "list every peer, and not the newest 50 alone")
	cmd.Flags().BoolVar(&long, "long", false, "write keys whole")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var s admin.Status
		done, err := a.ask(cmd, &s, func(ctx context.Context, c *admin.Client) error {
			if err := c.Call(ctx, "GET", "/v1/status", nil, &s); err != nil || !all {
				return err
			}
			return c.AllPeers(ctx, &s)
		})
		if done || err != nil {
			return err
		}
		return showStatus(cmd.OutOrStdout(), s, view{all, long, a.reach()})
	}
	return cmd
}

// view is how the status is to be shown.
type view struct {
	all, long bool
	reach     string // of the commands that are named in it
}

func showStatus(w io.Writer, s admin.Status, v view) error {
	health := "well"
	if !s.Health.OK {
		health = "NOT well: " + strings.Join(s.Health.Problems, "; ")
	}
	fmt.Fprintf(w, "detour     %s, up %s\nkey        %s\nhealth     %s\nadmits     %s\npeers      %d connected, %d waiting\n",
		s.Version, time.Since(s.Started).Truncate(time.Second), s.ServerKey, health, admitsInWords(s.Admission), s.Connected, s.Waiting)
	for _, t := range s.Admission.Tenants {
		name := "source"
		if t.Name != "" {
			name = "tenant " + t.Name
		}
		fmt.Fprintf(w, "%-10s %s: %d logins\n", name, strings.Join(t.Sources, ", "), t.Admitted)
		for _, source := range t.Sources {
			if text := t.Troubles[source]; text != "" {
				fmt.Fprintf(w, "TROUBLE    %s: %s\n", source, text)
			}
		}
	}
	if s.Pending > 0 {
		fmt.Fprintf(w, "pending    %d keys wait for you: detour admit pending%s\n", s.Pending, v.reach)
	}
	if s.Bans > 0 {
		fmt.Fprintf(w, "bans       %d: detour ban --list%s\n", s.Bans, v.reach)
	}
	if s.Probes > 0 {
		fmt.Fprintf(w, "probes     %s let in for a time, by a doctor or a token; to end that: detour admit probe-token --end%s\n", counted(s.Probes, "key"), v.reach)
	}
	return showPeers(w, s.Peers, s.More, v)
}

func admitsInWords(a admin.Admission) string {
	switch {
	case a.Open:
		return "EVERYBODY"
	case len(a.Tenants) == 0:
		return "nobody"
	case a.Isolate:
		return "members alone; tenants are kept apart"
	}
	return "members alone"
}

// showPeers lists peers, of which more came earlier and are not among them.
func showPeers(w io.Writer, peers []admin.Peer, more int, v view) error {
	if len(peers) == 0 {
		return nil
	}
	if !v.all && len(peers) > shownPeers {
		more += len(peers) - shownPeers
		peers = peers[len(peers)-shownPeers:]
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tNAME\tTENANT\tADDRESS\tSINCE\tSTATE")
	for _, p := range peers {
		k := p.Key.Hex()[:shownDigits] // which the other commands take
		if v.long {
			k = p.Key.String()
		}
		addr := "-"
		if p.Addr.IsValid() {
			addr = p.Addr.String()
		}
		state := "connected"
		switch {
		case p.Waiting:
			state = "WAITS"
		case p.Mesh:
			state = "sibling relay"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", k, orDash(p.Name), orDash(p.Tenant), addr, ago(p.Since), state)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if more > 0 {
		fmt.Fprintf(w, "and %d that came earlier: detour status --all%s\n", more, v.reach)
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
