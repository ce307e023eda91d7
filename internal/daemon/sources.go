package daemon

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/detour-relay/detour/internal/admit"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
)

// admissionSource makes the source that an entry of a tenant names.
func (d *Daemon) admissionSource(tenant string, e config.Entry) (admit.Source, error) {
	name := e.Name()
	switch e.Kind {
	case config.AdmitAny:
		return admit.Any(), nil
	case config.AdmitAsk:
		return d.book.Ask(tenant), nil
	case config.AdmitKeys:
		if e.Target == "" {
			return d.inlineKeys()
		}
		return admit.NewKeysFile(e.Target, d.log)
	case config.AdmitURL:
		s, err := admit.NewURL(admit.URLOptions{Name: name, URL: e.Target, CAFile: e.Options["ca_file"], Derper: e.On("derper", false)})
		return d.cached(tenant, e, s, err)
	case config.AdmitExec:
		s, err := admit.NewExec(admit.ExecOptions{Name: name, Path: e.Target})
		return d.cached(tenant, e, s, err)
	case config.AdmitTailscaled:
		return d.cached(tenant, e, admit.NewTailscaled(admit.TailscaledOptions{Name: name, Socket: e.Target}), nil)
	case config.AdmitHeadscale:
		token := secretOf(e, "token")
		if token == nil {
			s, err := admit.NewHeadscaleVerify(admit.URLOptions{Name: name, URL: e.Target, CAFile: e.Options["ca_file"]})
			return d.cached(tenant, e, s, err)
		}
		l, err := admit.NewHeadscale(admit.HeadscaleOptions{
			Name: name, URL: e.Target, Token: token, CAFile: e.Options["ca_file"], RefuseExpired: e.Options["expired"] == "refuse",
		})
		return d.listed(tenant, e, l, err)
	case config.AdmitTailscale:
		l, err := admit.NewTailscale(admit.TailscaleOptions{
			Name: name, Tailnet: e.Target, BaseURL: e.Options["base_url"], Key: secretOf(e, "key"),
			OAuthID: e.Options["oauth_id"], OAuthSecret: secretOf(e, "oauth_secret"),
			AllowExpired: e.Options["expired"] == "admit", AllowUnauthorized: e.Options["unauthorized"] == "admit",
		})
		return d.listed(tenant, e, l, err)
	}
	return nil, fmt.Errorf("there is no source %q", e.Kind) // the config has been checked
}

// secretOf is the secret that stands in the file or variable of an option.
func secretOf(e config.Entry, name string) admit.Secret {
	switch {
	case e.Options[name+"_file"] != "":
		return admit.SecretFile(e.Options[name+"_file"])
	case e.Options[name+"_env"] != "":
		return admit.SecretEnv(e.Options[name+"_env"])
	}
	return nil
}

// cached keeps the answers of a source that is asked for each key.
func (d *Daemon) cached(tenant string, e config.Entry, s admit.Source, err error) (admit.Source, error) {
	if err != nil {
		return nil, err
	}
	return admit.Cached(s, admit.CacheOptions{
		Allow: serving(e, "allow_for"), Refuse: serving(e, "refuse_for"), Timeout: e.Duration("timeout", 0),
		OnUnavailable: d.fallback(e), MaxAge: d.maxAge(e), Memory: d.memory(tenant, e), Logger: d.log,
	}), nil
}

// listed holds the members of a source that knows them all.
func (d *Daemon) listed(tenant string, e config.Entry, l admit.Lister, err error) (admit.Source, error) {
	if err != nil {
		return nil, err
	}
	return admit.NewList(l, admit.ListOptions{
		Refresh: e.Duration("refresh", 0), OnUnavailable: d.fallback(e), MaxAge: d.maxAge(e), Memory: d.memory(tenant, e), Logger: d.log,
	}), nil
}

// serving is how long an answer serves, where 0 in the settings is not at all.
func serving(e config.Entry, option string) time.Duration {
	if e.Options[option] == "" {
		return 0 // the default
	}
	if age := e.Duration(option, 0); age > 0 {
		return age
	}
	return -1
}

func (d *Daemon) maxAge(e config.Entry) time.Duration {
	if age := e.Duration("max_age", d.cfg.AdmitMaxAge); age > 0 {
		return age
	}
	return 1 // nothing is so young
}

func (d *Daemon) fallback(e config.Entry) admit.Fallback {
	choice := d.cfg.AdmitOnUnavailable
	if own := e.Options["on_unavailable"]; own != "" {
		choice = own
	}
	switch choice {
	case config.UnavailableRefuse:
		return admit.FallbackRefuse
	case config.UnavailableAdmit:
		return admit.FallbackAdmit
	}
	return admit.FallbackCached
}

// memory is where a source's answers are kept. Two tenants may ask the same server,
// and what one is told is not the other's.
func (d *Daemon) memory(tenant string, e config.Entry) admit.Memory {
	if d.book == nil {
		return nil
	}
	return d.book.Memory(memoryOf(tenant, e))
}

// ways are options that say how a source is asked and its answers are used; all
// others, and its target, say which source it is.
var ways = []string{
	"name", "allow_for", "refuse_for", "timeout", "refresh", "on_unavailable", "max_age",
}

// memoryOf names a source's answers: what another server said under the same name is
// not taken for its own.
func memoryOf(tenant string, e config.Entry) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q", e.Target)
	for _, option := range slices.Sorted(maps.Keys(e.Options)) {
		if !slices.Contains(ways, option) {
			fmt.Fprintf(sum, " %q=%q", option, e.Options[option])
		}
	}
	return fmt.Sprintf("%s/%s=%s#%x", tenant, e.Kind, e.Name(), sum.Sum(nil)[:8])
}

// inlineKeys is the source of the setting admit_key.
func (d *Daemon) inlineKeys() (admit.Source, error) {
	members := make(map[key.Public]admit.Member)
	for _, entry := range d.cfg.AdmitKey {
		text, name := config.NamedKey(entry)
		k, err := key.ParsePublic(text)
		if err != nil {
			return nil, fmt.Errorf("admit_key: %w", err)
		}
		members[k] = admit.Member{Name: name}
	}
	return admit.Members(members), nil
}
