package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/compat"
	"github.com/detour-relay/detour/internal/config"
)

// containerCommand is hidden, as only an image needs it.
func containerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "container [command] [flags]",
		Short: "The entry point of a container image: serve, or derper where DERP_* variables are set",
		Long: "The entry point of a container image. With a command it runs that command. Without one it is `detour derper`\n" +
			"where a DERP_* variable of the community images is set, so that their `docker run` lines work with another\n" +
			"image name, and `detour serve` otherwise.\n\n" +
			"As derper the relay is open, unless DETOUR_ADMIT or DETOUR_ADMIT_KEY says who may connect. Those and other\n" +
			"DETOUR_* variables for which derper has no flag count there too, as DETOUR_PUBLIC_IPV4 and DETOUR_LOG_FORMAT.\n" +
			"Without -c the server key is /var/lib/derper/derper.key.",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE:               container,
	}
}

func container(cmd *cobra.Command, args []string) error {
	named := len(args) > 0 && !strings.HasPrefix(args[0], "-")
	switch variable := compat.ImageVariable(os.Getenv); {
	case len(args) > 0 && (args[0] == "-h" || args[0] == "--help"):
		return cmd.Help()
	case named && args[0] == "derper":
		return containerDerper(cmd, args[1:])
	case named:
		return another(cmd, args)
	case variable != "":
		fmt.Fprintf(cmd.ErrOrStderr(), "detour: %s is set, so this container runs `detour derper`; without DERP_* variables it runs `detour serve`\n", variable)
		return containerDerper(cmd, args)
	default:
		return another(cmd, append([]string{"serve"}, args...))
	}
}

// another carries out a command line as if it had been given to begin with.
func another(cmd *cobra.Command, args []string) error {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(cmd.OutOrStdout())
	root.SetErr(cmd.ErrOrStderr())
	return root.ExecuteContext(cmd.Context())
}

// containerDerper is derper as an image has it: the key file has its default
// place whoever runs it, as the image made that directory, and DETOUR_* variables
// decide what derper has no flag for.
func containerDerper(cmd *cobra.Command, args []string) error {
	base, err := config.Load("", thisHost(), os.Environ(), nil)
	if err != nil {
		return err
	}
	host := compat.ThisHost(base, cmd.ErrOrStderr())
	host.Root = true
	host.Admits = isSet("admit") || isSet("admit_key") || isSet("tenants")
	for _, s := range config.Settings() {
		if isSet(s.Name) && derperDecides[s.Name] {
			fmt.Fprintf(cmd.ErrOrStderr(), "detour: warning: %s has no effect beside DERP_* variables; hint: unset those, for `detour serve`\n", s.EnvName())
		}
	}
	return derper(cmd, args, host, func(c *config.Config) {
		if isSet("admin_listen") {
			c.AdminListen = base.AdminListen // where the image's health check asks
		}
	})
}

func isSet(setting string) bool { return os.Getenv(config.Setting{Name: setting}.EnvName()) != "" }

// derperDecides holds the settings that derper's flags and their defaults decide
// and that somebody might expect to have effect beside them. The state directory
// is missing: the image sets it for the other mode.
var derperDecides = map[string]bool{
	"server_key": true, "mesh_key_file": true, "listen": true, "tls": true, "stun_listen": true, "stun_mode": true,
	"http_listen": true, "front_page": true, "hostname": true, "cert_mode": true, "cert": true, "key": true, "region_id": true,
	"write_timeout": true, "tcp_user_timeout": true, "tcp_keepalive": true,
}
