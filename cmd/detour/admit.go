package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/admin"
)

func admitCommand() *cobra.Command {
	return group("admit", "Decide who may use the running relay",
		pendingCommand(), allowCommand(), denyCommand(), revokeCommand(), rulesCommand(), probeTokenCommand())
}

func pendingCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pending",
		Short: "List the nodes that tried and were refused, with how to let them in",
		Args:  noArguments(),
	}
	a := bindAsking(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var list []admin.Pending
		if done, err := a.call(cmd, "GET", "/v1/admit/pending", nil, &list); done || err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		if len(list) == 0 {
			_, err := fmt.Fprintln(w, "Nobody has been refused lately.")
			return err
		}
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "KEY\tFROM\tFIRST\tLAST\tTRIES\tWHY\tSTATE")
		for _, p := range list {
			state := "gone"
			if p.Waiting {
				state = "waits"
			}
			from := "-"
			if p.Addr.IsValid() {
				from = p.Addr.String()
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", p.Key, from, ago(p.First), ago(p.Last), p.Tries, p.Reason, state)
		}
		if err := table.Flush(); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "\nTo let one in: detour admit allow KEY --name NAME%[2]s. The first digits of a key are enough, as in\n  detour admit allow %[1]s%[2]s\n",
			list[0].Key.Hex()[:shownDigits], a.reach())
		return err
	}
	return cmd
}

// ruling is a command that says something of one key.
func ruling(use, short, path string, words bool, show func(admin.RuleResult) string) *cobra.Command {
	var q admin.RuleRequest
	cmd := &cobra.Command{Use: use + " KEY", Short: short, Args: arguments(1, 1, "key")}
	a := bindAsking(cmd)
	if words {
		cmd.Flags().StringVar(&q.Name, "name", "", "how you call the node")
		cmd.Flags().StringVar(&q.Note, "note", "", "anything to remember")
	}
	if path == "/v1/admit/allow" {
		cmd.Flags().StringVar(&q.Tenant, "tenant", "", "tenant that it belongs to, where several ask")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q.Key = args[0]
		var result admin.RuleResult
		if done, err := a.call(cmd, "POST", path, q, &result); done || err != nil {
			return err
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), show(result))
		return err
	}
	return cmd
}

func allowCommand() *cobra.Command {
	return ruling("allow", "Let a node in; one that waits is in at once", "/v1/admit/allow", true, func(r admin.RuleResult) string {
		text := "Allowed: " + named(r.Rule)
		if r.Present > 0 {
			return text + "\nIt is connected, and can be reached from now on."
		}
		return text + "\nIt is not connected; it will be let in when it comes."
	})
}

func denyCommand() *cobra.Command {
	return ruling("deny", "Keep a node out, whatever other sources say; one that is connected is cut off", "/v1/admit/deny", true, func(r admin.RuleResult) string {
		return "Denied: " + named(r.Rule)
	})
}

func revokeCommand() *cobra.Command {
	return ruling("revoke", "Take back what was said of a node: it is unknown again", "/v1/admit/revoke", false, func(r admin.RuleResult) string {
		was := "denied"
		if r.Rule.Allow {
			was = "allowed"
		}
		return "Not " + was + " any more: " + named(r.Rule) + "\nWhat other sources say of it counts."
	})
}

func named(r admin.Rule) string {
	if r.Name == "" {
		return r.Key.String()
	}
	return r.Name + ", " + r.Key.String()
}

func rulesCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the nodes that you have allowed or denied", Args: noArguments()}
	a := bindAsking(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var list []admin.Rule
		done, err := a.ask(cmd, &list, func(ctx context.Context, c *admin.Client) (err error) {
			list, err = c.AllRules(ctx)
			return err
		})
		if done || err != nil {
			return err
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "No node was allowed or denied by hand; detour admit pending"+a.reach()+" lists those that try.")
			return err
		}
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "KEY\tRULE\tNAME\tTENANT\tSINCE\tNOTE")
		for _, r := range list {
			rule := "deny"
			if r.Allow {
				rule = "allow"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Key, rule, orDash(r.Name), orDash(r.Tenant), r.At.Local().Format(time.DateTime), orDash(r.Note))
		}
		return table.Flush()
	}
	return cmd
}
