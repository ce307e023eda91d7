package compat

import (
	"errors"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/config"
)

const (
	rootKeyFile = "/var/lib/derper/derper.key"
	devAddress  = ":3340"
	regionID    = 900 // what derper prints for a relay of one's own
)

// convert makes the Config, or notes problems.
func (c *command) convert() config.Config {
	cfg := c.host.Base
	c.admission(&cfg)
	c.acceptRate(&cfg)
	cfg.Refusal = config.RefusalClose // as derper does
	cfg.RegionID = regionID
	cfg.STUNMode = config.STUNTailscale

	c.listeners(&cfg)
	if c.hostnameOK() && cfg.TLS {
		c.certificate(&cfg)
	} else {
		cfg.CertMode = config.CertPin // not used; keepStateIn names the files
	}
	cfg.Hostname = c.publishedName()
	c.serverKey(&cfg)
	cfg.MeshKeyFile = c.meshKey()
	cfg.FrontPage = c.frontPage()
	cfg.TCPKeepAlive = c.duration("tcp-keepalive-time", c.keepAlive)
	cfg.TCPUserTimeout = c.duration("tcp-user-timeout", c.userTimeout)
	cfg.WriteTimeout = c.duration("tcp-write-timeout", c.writeTimeout)
	return cfg
}

// listeners puts every socket on the IP address of -a, as derper does.
func (c *command) listeners(cfg *config.Config) {
	cfg.Listen, cfg.TLS = "", false
	cfg.HTTPListen, cfg.STUNListen = config.Off, config.Off
	addr, ref := c.addr, c.ref("a")
	if c.dev {
		addr, ref = devAddress, "-dev"
	}
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		c.fail("%s: %w; hint: write host:port or :port, as in :443", ref, err)
		return
	}
	// derper leaves the choice of a family to Go, which takes every address of
	// either for the addresses of both.
	if host == "0.0.0.0" || host == "::" {
		host = ""
	}
	port, err := portNumber(service)
	if err != nil {
		c.fail("%s: port %q is not in 0..65535; hint: write host:port or :port, as in :443", ref, service)
		return
	}
	cfg.Listen = net.JoinHostPort(host, strconv.Itoa(port))
	cfg.TLS = port == 443 || c.certMode == certManual // with -dev too, as derper has it
	if cfg.TLS && c.httpPort >= 0 {
		cfg.HTTPListen = c.onPort(host, "http-port", c.httpPort)
	}
	if c.stun {
		cfg.STUNListen = c.onPort(host, "stun-port", c.stunPort)
	}
	switch {
	case cfg.TLS:
	case c.dev:
		c.warnFirst("PLAIN HTTP, NO TLS on " + cfg.Listen + ": -dev is for tests")
	default:
		c.warnFirst("PLAIN HTTP, NO TLS on " + cfg.Listen + ": derper turns TLS on only on port 443 or with " +
			"-certmode manual; leave it so only behind a proxy that speaks TLS to clients")
	}
}

// warnFirst puts what an operator must not miss before all other warnings.
func (c *command) warnFirst(text string) { c.warnings = append([]string{text}, c.warnings...) }

func (c *command) onPort(host, name string, port int) string {
	if port < 0 || port > 65535 {
		c.fail("%s: port %d is not in 0..65535", c.ref(name), port)
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// portNumber also reads the two service names that stand in derper's examples.
func portNumber(service string) (int, error) {
	switch service {
	case "https":
		return 443, nil
	case "http":
		return 80, nil
	}
	port, err := strconv.ParseUint(service, 10, 16)
	return int(port), err
}

// publishedName is empty where derper's own default or an image's placeholder
// would be published; the address is then found on the interfaces.
func (c *command) publishedName() string {
	if c.hostUnpublished || c.origin["hostname"] == "" {
		return ""
	}
	return c.hostname
}

// serverKey also decides where the relay's other files live: beside the key.
func (c *command) serverKey(cfg *config.Config) {
	switch {
	case c.dev:
		if c.keyFile != "" {
			c.warn("%s is not read with -dev, as in derper: the server key is new at each start", c.ref("c"))
		}
	case c.keyFile != "":
		keepStateIn(cfg, c.keyFile)
	case c.host.Root:
		keepStateIn(cfg, rootKeyFile)
	default:
		c.fail("-c: without root the server key has no default place; "+
			"hint: give -c FILE (made when missing), or run as root for %s, or try it with -dev", rootKeyFile)
	}
}

// keepStateIn moves to the key file's directory what -certdir does not place. A
// certificate is named without TLS too, as a whole Config has one.
func keepStateIn(cfg *config.Config, keyFile string) {
	cfg.StateDir = filepath.Dir(keyFile)
	cfg.ServerKey = keyFile
	cfg.AdminListen = "unix:" + filepath.Join(cfg.StateDir, "admin.sock")
	if !cfg.TLS || cfg.CertMode == config.CertACME {
		cfg.Cert = filepath.Join(cfg.StateDir, "pin.crt")
		cfg.Key = filepath.Join(cfg.StateDir, "pin.key")
	}
}

// meshKey probes derper's default files only when nothing names one, and not
// with -dev, where derper leaves the key of the real relay alone.
func (c *command) meshKey() string {
	if c.origin["mesh-psk-file"] != "" || c.dev {
		return c.meshKeyFile
	}
	candidates := []string{"/home/derp/keys/derp-mesh.key"}
	if home := c.env("HOME"); home != "" {
		candidates = append(candidates, filepath.Join(home, "keys", "derp-mesh.key"))
	}
	for _, file := range candidates {
		switch _, err := c.host.Stat(file); {
		case err == nil:
			return file
		case !errors.Is(err, fs.ErrNotExist):
			c.warn("cannot look for a mesh key: %v", err)
		}
	}
	return ""
}

func (c *command) frontPage() string {
	switch c.home {
	case "":
		return config.FrontNeutral
	case "blank":
		return config.FrontBlank
	}
	u, err := url.Parse(c.home)
	if err != nil || u.Host == "" || !strings.HasPrefix(c.home, "http://") && !strings.HasPrefix(c.home, "https://") {
		c.fail("%s: %q is neither blank nor a URL that begins with http:// or https://; hint: leave it out for a neutral page",
			c.ref("home"), c.home)
	}
	return c.home
}

// duration refuses what is below zero; 0 means the same to derper and Config.
func (c *command) duration(name string, d time.Duration) time.Duration {
	if d < 0 {
		c.fail("%s: %v is below zero", c.ref(name), d)
	}
	return d
}
