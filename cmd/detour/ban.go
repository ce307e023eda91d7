package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/admin"
)

func kickCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kick KEY",
		Short: "End the connections of a node, which may come again",
		Args:  arguments(1, 1, "key"),
	}
	a := bindAsking(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var result admin.KickResult
		if done, err := a.call(cmd, "POST", "/v1/kick", admin.KickRequest{Key: args[0]}, &result); done || err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "Ended %s of %v. Clients connect again within seconds; to keep it out: detour ban %s --for 24h%s\n",
			counted(result.Ended, "connection"), result.Key, result.Key.Hex()[:shownDigits], a.reach())
		return err
	}
	return cmd
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

const banHelp = `Keep a node or network out of the running relay, whatever its sources say, and end its connections at once:

  detour ban nodekey:… --for 24h        a key, of which the first digits are enough
  detour ban 192.0.2.0/24 --note scans  an address or network; without --for the ban stays until it is removed
  detour ban --list
  detour ban --remove 192.0.2.0/24

A network ban hits members there too. It is by the client's own address, also behind proxies that are trusted.`

func banCommand() *cobra.Command {
	var list, remove bool
	var span lasts
	var q admin.BanRequest
	cmd := &cobra.Command{
		Use:   "ban [KEY|ADDRESS|CIDR]",
		Short: "Keep a node or network out, for a time or until further notice",
		Long:  banHelp,
		Args:  arguments(0, 1, "key, address or network"),
	}
	a := bindAsking(cmd)
	cmd.Flags().Var(&span, "for", "how long, as in 24h or 7d (default until it is removed)")
	cmd.Flags().StringVar(&q.Note, "note", "", "anything to remember")
	cmd.Flags().BoolVar(&list, "list", false, "list the bans")
	cmd.Flags().BoolVar(&remove, "remove", false, "remove the ban of this key, address or network")
	cmd.MarkFlagsMutuallyExclusive("list", "remove", "for")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case list:
			return listBans(cmd, a)
		case len(args) == 0:
			return wrongUsage(cmd, "whom? Give a key, an address or a network, or --list")
		case cmd.Flags().Changed("for") && time.Duration(span) < time.Second:
			return wrongUsage(cmd, "--for is less than a second; without it the ban stays until it is removed")
		}
		q.Target, q.Seconds = args[0], int64(time.Duration(span).Round(time.Second)/time.Second)
		path := "/v1/bans"
		if remove {
			path = "/v1/bans/remove"
		}
		var result admin.BanResult
		if done, err := a.call(cmd, "POST", path, q, &result); done || err != nil {
			return err
		}
		text := "Banned: " + result.Ban.Target + until(result.Ban) + "; ended " + counted(result.Ended, "connection") + "."
		if remove {
			text = "Banned no more: " + result.Ban.Target
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
		return err
	}
	return cmd
}

func until(b admin.Ban) string {
	if b.Until.IsZero() {
		return ", until it is removed"
	}
	return ", until " + b.Until.Local().Format(time.DateTime)
}

func listBans(cmd *cobra.Command, a *asking) error {
	var list []admin.Ban
	if done, err := a.call(cmd, "GET", "/v1/bans", nil, &list); done || err != nil {
		return err
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "Nobody is banned.")
		return err
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TARGET\tUNTIL\tSINCE\tNOTE")
	for _, b := range list {
		end := "for ever"
		if !b.Until.IsZero() {
			end = b.Until.Local().Format(time.DateTime)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", b.Target, end, b.At.Local().Format(time.DateTime), orDash(b.Note))
	}
	return table.Flush()
}
