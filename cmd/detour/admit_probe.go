package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/probe"
)

const probeTokenHelp = `Print a token with which detour doctor and detour probe, run elsewhere, can log in at this relay for a time:

  detour admit probe-token --for 10m > probe.token
  detour doctor https://relay.example.com --token-file probe.token     on another machine

The token holds two private keys that the running relay knows until then, in memory alone. Whoever has it can exchange
packets between these two keys through the relay, and with nobody else. --end has the relay forget all of them.`

func probeTokenCommand() *cobra.Command {
	span := lasts(10 * time.Minute)
	var end bool
	cmd := &cobra.Command{
		Use:   "probe-token",
		Short: "Print a token that lets detour doctor in from elsewhere, for a time",
		Long:  probeTokenHelp,
		Args:  noArguments(),
	}
	a := &asking{settings: bindSettings(cmd)}
	cmd.Flags().Var(&span, "for", "how long, 24h at most")
	cmd.Flags().BoolVar(&end, "end", false, "let the keys of all tokens in no more, and cut them off")
	cmd.MarkFlagsMutuallyExclusive("for", "end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if end {
			var result admin.ProbesEnded
			if _, err := a.call(cmd, "POST", "/v1/probe-keys/end", nil, &result); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "Let in no more: %s of probes.\n", counted(result.Ended, "key"))
			return err
		}
		if time.Duration(span) < time.Second {
			return wrongUsage(cmd, "--for is less than a second")
		}
		t := probe.NewToken()
		var result admin.ProbeResult
		q := admin.ProbeRequest{Keys: []key.Public{t.Keys[0].Public(), t.Keys[1].Public()}, Seconds: int64(time.Duration(span) / time.Second)}
		if _, err := a.call(cmd, "POST", "/v1/probe-tokens", q, &result); err != nil {
			return err
		}
		relay, err := key.ParsePublic(result.ServerKey)
		if err != nil {
			return fmt.Errorf("the relay's answer: %w", err)
		}
		t.Relay, t.Until = relay, result.Until
		_, err = fmt.Fprint(cmd.OutOrStdout(), t.Text())
		return err
	}
	return cmd
}
