package compat

import (
	"slices"
	"strconv"
	"strings"
)

// What the community images fill in themselves.
const (
	imageCertDir    = "/app/certs"        // of all of them, whatever derper's own default
	domainUnset     = "your-hostname.com" // DERP_DOMAIN when the user gave none
	ipUnset         = "127.0.0.1"         // DERP_HOST when the user gave none
	variablePrefix  = "DERP_"
	ipImage         = "the ip_derper image's default"
	communityImages = "the community images' default"
)

// variables maps what the images read to derper's flags. derper itself reads
// none of them. Source: the published Dockerfiles of fredliang44/derper-docker,
// of yangchuansheng's docker-image and ip_derper, and of less common images.
var variables = []struct{ name, flag string }{
	{"DERP_DOMAIN", "hostname"},
	{"DERP_HOSTNAME", "hostname"},
	{"DERP_HOST", "hostname"},
	{"DERP_CERT_MODE", "certmode"},
	{"DERP_CERTMODE", "certmode"},
	{"DERP_CERT_DIR", "certdir"},
	{"DERP_CERTDIR", "certdir"},
	{"DERP_CERTS", "certdir"},
	{"DERP_ADDR", "a"},
	{"DERP_HTTP_PORT", "http-port"},
	{"DERP_STUN", "stun"},
	{"DERP_RUN_STUN", "stun"},
	{"DERP_STUN_PORT", "stun-port"},
	{"STUN_PORT", "stun-port"},
	{"DERP_RUN_DERP", "derp"},
	{"DERP_CONFIG_FILE", "c"},
	{"DERP_CONFIG_PATH", "c"},
	{"DERP_HOME", "home"},
	{"DERP_VERIFY_CLIENTS", "verify-clients"},
	{"DERP_VERIFY_CLIENT_URL", "verify-client-url"},
	{"DERP_VERIFY_CLIENT_URL_FAIL_OPEN", "verify-client-url-fail-open"},
	{"DERP_SOCKET", "socket"},
	{"DERP_MESH_PSK_FILE", "mesh-psk-file"},
	{"DERP_MESH_WITH", "mesh-with"},
	{"DERP_RATE_CONFIG", "rate-config"},
	{"DERP_ACCEPT_CONNECTION_LIMIT", "accept-connection-limit"},
	{"DERP_ACCEPT_CONNECTION_BURST", "accept-connection-burst"},
	{"DERP_TCP_KEEPALIVE_TIME", "tcp-keepalive-time"},
	{"DERP_TCP_USER_TIMEOUT", "tcp-user-timeout"},
	{"DERP_TCP_WRITE_TIMEOUT", "tcp-write-timeout"},
	{"DERP_BOOTSTRAP_DNS_NAMES", "bootstrap-dns-names"},
}

// derperVariables are read by derper itself and have no effect here.
var derperVariables = []struct{ name, why string }{
	{"TS_DEBUG_KEY_PATH", noDebugPages},
	{"TS_ALLOW_DEBUG_IP", noDebugPages},
	{"TS_DEBUG_TRUSTED_CIDRS", noDebugPages},
	{"DERP_DEBUG_LOGS", "logs have a level instead"},
	{"DERP_PROBER_DEBUG_LOGS", "logs have a level instead"},
	{"TS_DEBUG_VERBOSE_DROPS", "drops are counted by reason instead"},
	{"TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH", "the queue of a peer has a fixed length"},
	{"TS_DERP_DISABLE_RTT_STATS", "round trips are not measured"},
}

const (
	noDebugPages    = "derper's debug pages are not served, the admin socket answers instead"
	meshKeyVariable = "TAILSCALE_DERPER_MESH_KEY"
)

// ImageVariable returns a DERP_* variable of the community Docker images that
// env sets, or "": an image that is given one and no command means derper.
func ImageVariable(env func(string) string) string {
	for _, v := range variables {
		if strings.HasPrefix(v.name, variablePrefix) && env(v.name) != "" {
			return v.name
		}
	}
	return ""
}

// readEnv sets the flags that the command line left out.
func (c *command) readEnv() {
	for _, v := range variables {
		value := c.env(v.name)
		switch {
		case value == "" || c.onCommandLine(v.flag):
		case v.name == "DERP_DOMAIN" && value == domainUnset:
			c.warn("DERP_DOMAIN is %s, the image's placeholder, and counts as not set", value)
		case v.name == "DERP_HOST" && value == ipUnset: // imageDefaults
		case c.origin[v.flag] != "":
			if first := c.origin[v.flag]; c.env(first) != value {
				c.fail("%s and %s both set -%s, to different values; hint: unset one", first, v.name, v.flag)
			}
		default:
			c.setFrom(v.name, v.flag, value)
		}
	}
	c.imageDefaults()
	c.warnOfUnread()
}

func (c *command) setFrom(variable, name, value string) {
	if _, err := strconv.ParseUint(value, 10, 16); err == nil && name == "a" {
		value = ":" + value // a widely read guide has DERP_ADDR=12345
	}
	c.origin[name] = variable
	if err := c.set.Set(name, value); err != nil {
		hint := "give it as for -" + name
		if b, ok := c.set.Lookup(name).Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			hint = "write true or false"
		}
		c.fail("%s=%q: %w; hint: %s", variable, value, err, hint)
	}
}

// imageDefaults completes what the user of a community image did not set. The
// ip_derper image has manual certificates only, makes them when missing, and is
// told from the others by the names of its variables.
func (c *command) imageDefaults() {
	ip := c.env("DERP_HOST") != "" || c.env("DERP_CERTS") != ""
	if ip {
		c.makesCert = !c.onCommandLine("hostname")
		c.assume("certmode", certManual, ipImage)
		if c.assume("hostname", ipUnset, ipImage) {
			c.hostUnpublished = true
			c.warn("DERP_HOST gives no address of this relay (%s is the image's placeholder): "+
				"the one to publish is looked for on the interfaces", ipUnset)
		}
	}
	if ip || c.env("DERP_DOMAIN") != "" || c.env("DERP_CERT_MODE") != "" || c.env("DERP_CERT_DIR") != "" {
		c.assume("certdir", imageCertDir, communityImages)
	}
}

// assume sets a flag that nothing has set, and reports whether it did.
func (c *command) assume(name, value, origin string) bool {
	if c.origin[name] != "" {
		return false
	}
	c.setFrom(origin, name, value)
	return true
}

// warnOfUnread names variables, never their values: some are secrets.
func (c *command) warnOfUnread() {
	known := map[string]bool{}
	for _, v := range variables {
		known[v.name] = true
	}
	for _, v := range derperVariables {
		known[v.name] = true
		if c.env(v.name) != "" {
			c.warn("%s is set and has no effect: %s", v.name, v.why)
		}
	}
	if c.env(meshKeyVariable) != "" {
		if c.dev {
			c.fail("%s: a mesh key from the environment is not supported; "+
				"hint: write it to a file and give -mesh-psk-file", meshKeyVariable)
		} else {
			c.warn("%s is set and has no effect without -dev, as in derper", meshKeyVariable)
		}
	}
	var unknown []string
	for _, entry := range c.host.Environ {
		name, value, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, variablePrefix) && value != "" && !known[name] {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		c.warn("not known and without effect: %s", strings.Join(unknown, ", "))
	}
}
