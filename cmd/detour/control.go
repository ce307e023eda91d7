package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/config"
)

// askLimit is how long the relay may take to answer a command.
const askLimit = 10 * time.Second

// asking is a command that speaks to the running relay.
type asking struct {
	settings *settings
	json     bool
}

// bindAsking gives cmd the flags that say where the relay is asked, and --json.
func bindAsking(cmd *cobra.Command) *asking {
	a := &asking{settings: bindSettings(cmd)}
	cmd.Flags().BoolVar(&a.json, "json", false, "print the relay's answer as JSON")
	return a
}

// reach is what another command needs to find the same relay, with a space in front:
// the flags of this one that say where it is.
func (a *asking) reach() (flags string) {
	if a.settings.file != "" {
		flags += " --config " + shellWord(a.settings.file)
	}
	for _, f := range a.settings.flags.All() {
		switch name := f.FlagName(); name {
		case "state-dir", "admin-listen", "admin-token-file":
			if f.Given() {
				flags += " --" + name + " " + shellWord(f.String())
			}
		}
	}
	return flags
}

// shellWord writes text so that a shell takes it as one word.
func shellWord(text string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,"
	if text != "" && strings.Trim(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// client is what asks the relay.
func (a *asking) client() (*admin.Client, error) {
	cfg, err := a.settings.load()
	if err != nil {
		return nil, err
	}
	if cfg.AdminListen == config.Off {
		return nil, errors.New("admin_listen is off, so the relay cannot be asked; hint: leave it at its default")
	}
	client, err := admin.NewClient(cfg.AdminListen)
	if err != nil {
		return nil, err
	}
	if cfg.AdminTokenFile != "" {
		// Over the unix socket none is needed, so one that cannot be read is no error here.
		if token, err := os.ReadFile(cfg.AdminTokenFile); err == nil {
			client.UseToken(strings.TrimSpace(string(token)))
		}
	}
	return client, nil
}

// call carries out one request. With --json the answer is printed as it is, and
// done is true.
func (a *asking) call(cmd *cobra.Command, method, path string, in, out any) (done bool, err error) {
	return a.ask(cmd, out, func(ctx context.Context, c *admin.Client) error { return c.Call(ctx, method, path, in, out) })
}

// ask has requests fill out, and prints that with --json; then done is true.
func (a *asking) ask(cmd *cobra.Command, out any, requests func(ctx context.Context, c *admin.Client) error) (done bool, err error) {
	client, err := a.client()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), askLimit)
	defer cancel()
	if err := requests(ctx, client); err != nil {
		return false, err
	}
	if a.json {
		return true, printJSON(cmd.OutOrStdout(), out)
	}
	return false, nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// ago writes how long ago something was, as people say it.
func ago(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return d.Truncate(time.Minute).String()[:len(d.Truncate(time.Minute).String())-2] + " ago"
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Hour).String(), "0m0s") + " ago"
	}
	return t.Local().Format(time.DateOnly)
}
