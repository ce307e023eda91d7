package admit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/detour-relay/detour/internal/key"
)

// TailscaleAPI is where Tailscale's own API is.
const TailscaleAPI = "https://api.tailscale.com"

// TailscaleOptions configure NewTailscale. Either Key or OAuthID and OAuthSecret
// are given; read access to devices ("devices:core:read") is enough.
type TailscaleOptions struct {
	Name              string // as Source.Name
	Tailnet           string // its name; "-": that of the key
	BaseURL           string // empty: TailscaleAPI
	Key               Secret // an API access token
	OAuthID           string
	OAuthSecret       Secret
	AllowExpired      bool // devices whose key has expired
	AllowUnauthorized bool // devices that wait for approval
}

// NewTailscale returns the devices of a tailnet, by Tailscale's API.
func NewTailscale(o TailscaleOptions) (Lister, error) {
	client, err := listClient("")
	if err != nil {
		return nil, err
	}
	if o.BaseURL == "" {
		o.BaseURL = TailscaleAPI
	}
	o.BaseURL = strings.TrimSuffix(o.BaseURL, "/")
	return &tailscale{o: o, client: client, devices: o.BaseURL + "/api/v2/tailnet/" + url.PathEscape(o.Tailnet) + "/devices"}, nil
}

type tailscale struct {
	o       TailscaleOptions
	client  *http.Client
	devices string // URL of the list

	mu    sync.Mutex
	token *oauth2.Token // guarded by mu; nil: none yet
}

// tailscaleDevice is what counts of a device.
type tailscaleDevice struct {
	NodeKey           string   `json:"nodeKey"`
	Name              string   `json:"name"`
	Hostname          string   `json:"hostname"`
	User              string   `json:"user"`
	Tags              []string `json:"tags"`
	Authorized        bool     `json:"authorized"`
	KeyExpiryDisabled bool     `json:"keyExpiryDisabled"`
	Expires           string   `json:"expires"` // RFC 3339; empty for some devices
}

func (t *tailscale) Name() string { return t.o.Name }

// List asks for all devices. A token that is not taken any more is replaced once.
func (t *tailscale) List(ctx context.Context) ([]Entry, error) {
	devices, err := t.list(ctx)
	if statusOf(err) == http.StatusUnauthorized && t.o.OAuthID != "" {
		t.forgetToken()
		devices, err = t.list(ctx)
	}
	if err != nil {
		return nil, retryLater(explainTailscale(err))
	}
	return t.entries(devices, time.Now()), nil
}

func (t *tailscale) list(ctx context.Context) ([]tailscaleDevice, error) {
	token, err := t.access(ctx)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Devices *[]tailscaleDevice `json:"devices"`
	}
	if err := getJSON(ctx, t.client, t.devices, "Bearer "+token, &answer); err != nil {
		return nil, err
	}
	if answer.Devices == nil {
		return nil, errors.New(`the answer has no field "devices"; hint: is base_url that of Tailscale's API?`)
	}
	return *answer.Devices, nil
}

// access is the API access token, or one that the OAuth client gets.
func (t *tailscale) access(ctx context.Context) (string, error) {
	if t.o.OAuthID == "" {
		return t.o.Key()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token.Valid() {
		return t.token.AccessToken, nil
	}
	secret, err := t.o.OAuthSecret()
	if err != nil {
		return "", err
	}
	c := clientcredentials.Config{
		ClientID: t.o.OAuthID, ClientSecret: secret, TokenURL: t.o.BaseURL + "/api/v2/oauth/token", AuthStyle: oauth2.AuthStyleInParams,
	}
	token, err := c.Token(context.WithValue(ctx, oauth2.HTTPClient, t.client))
	if err != nil {
		if failed, ok := errors.AsType[*oauth2.RetrieveError](err); ok && failed.Response != nil {
			// Its own text holds the whole answer.
			return "", fmt.Errorf("the OAuth client gets no token: %w; hint: check oauth_id and its secret, and its scope devices:core:read",
				&statusError{status: failed.Response.StatusCode, after: retryAfter(failed.Response.Header)})
		}
		if _, ok := errors.AsType[*url.Error](err); !ok { // it has answered
			return "", fmt.Errorf("the answer to the OAuth client holds no token: %v; hint: is base_url that of Tailscale's API?", err)
		}
		return "", fmt.Errorf("get a token for the OAuth client: %w", unreached(err))
	}
	t.token = token
	return token.AccessToken, nil
}

func (t *tailscale) forgetToken() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token = nil
}

func explainTailscale(err error) error {
	if strings.Contains(err.Error(), "; hint: ") {
		return err
	}
	switch statusOf(err) {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the Tailscale API does not take the key: %w; hint: it may have expired, or lack the scope devices:core:read; make one at https://login.tailscale.com/admin/settings/keys", err)
	case http.StatusNotFound:
		return fmt.Errorf("there is no such tailnet for this key: %w; hint: write tailscale=- for the key's own", err)
	}
	return fmt.Errorf("%w; hint: the API answers later, as a rule", err)
}

func (t *tailscale) entries(devices []tailscaleDevice, now time.Time) (list []Entry) {
	for _, d := range devices {
		k, err := key.ParsePublic(d.NodeKey)
		if err != nil {
			continue
		}
		if d.expired(now) && !t.o.AllowExpired || !d.Authorized && !t.o.AllowUnauthorized {
			continue
		}
		name, _, _ := strings.Cut(d.Name, ".")
		if name == "" {
			name = d.Hostname
		}
		list = append(list, Entry{k, Member{Name: name, User: d.User, Tags: d.Tags}.cleaned()})
	}
	return list
}

// expired reports whether the device's key is over. A time that cannot be read
// counts as over, for this device alone.
func (d tailscaleDevice) expired(now time.Time) bool {
	if d.KeyExpiryDisabled || d.Expires == "" {
		return false
	}
	at, err := time.Parse(time.RFC3339, d.Expires)
	return err != nil || at.Year() > 1 && at.Before(now)
}
