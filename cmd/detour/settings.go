package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/config"
)

// settings binds the flags of all settings, and --config, to one command.
type settings struct {
	flags *config.Flags
	file  string
}

func bindSettings(cmd *cobra.Command) *settings {
	s := &settings{flags: config.NewFlags()}
	for _, f := range s.flags.All() {
		bound := cmd.Flags().VarPF(f, f.FlagName(), "", f.Usage)
		if f.IsBoolFlag() {
			bound.NoOptDefVal = "true"
		}
	}
	cmd.Flags().StringVar(&s.file, "config", "", "YAML `file` with settings; flags and DETOUR_* variables override it (DETOUR_CONFIG)")
	return s
}

// load merges file, environment and flags.
func (s *settings) load() (config.Config, error) {
	file := s.file
	if file == "" {
		file = os.Getenv("DETOUR_CONFIG")
	}
	return config.Load(file, thisHost(), os.Environ(), s.flags)
}

func thisHost() config.Host {
	home, _ := os.UserHomeDir() // without one, the state directory must be named
	return config.Host{Root: os.Geteuid() == 0, Getenv: os.Getenv, Home: home}
}

// newLogger makes the logger that the config asks for.
func newLogger(c config.Config, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, fmt.Errorf("log_level: %w", err)
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return slog.New(slog.NewTextHandler(w, o)), nil
}
