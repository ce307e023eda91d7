package admit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// HeadscaleOptions configure NewHeadscale.
type HeadscaleOptions struct {
	Name          string // as Source.Name
	URL           string // of the server, as in https://headscale.example.com
	Token         Secret // an API key
	CAFile        string // PEM roots to trust besides the system's; empty: none
	RefuseExpired bool   // leave out nodes whose key has expired; Headscale's own /verify admits them
}

// NewHeadscale returns the nodes of a Headscale, by its API v1.
func NewHeadscale(o HeadscaleOptions) (Lister, error) {
	client, err := listClient(o.CAFile)
	if err != nil {
		return nil, err
	}
	return &headscale{o: o, client: client, nodes: strings.TrimSuffix(o.URL, "/") + "/api/v1/node"}, nil
}

type headscale struct {
	o      HeadscaleOptions
	client *http.Client
	nodes  string // URL of the list
}

// headscaleNode is what counts of a node. Versions differ in the names of its tags.
type headscaleNode struct {
	NodeKey   string `json:"nodeKey"`
	Name      string `json:"name"`
	GivenName string `json:"givenName"`
	User      struct {
		Name  string `json:"name"`
		Email string `json:"email"`
	} `json:"user"`
	Expiry     *time.Time `json:"expiry"`
	Tags       []string   `json:"tags"`
	ForcedTags []string   `json:"forcedTags"`
	ValidTags  []string   `json:"validTags"`
}

func (h *headscale) Name() string { return h.o.Name }

// List asks for all nodes. An answer without the field "nodes" is an error and no
// empty list: something else than Headscale has answered.
func (h *headscale) List(ctx context.Context) ([]Entry, error) {
	token, err := h.o.Token()
	if err != nil {
		return nil, err
	}
	var answer struct {
		Nodes *[]headscaleNode `json:"nodes"`
	}
	if err := getJSON(ctx, h.client, h.nodes, "Bearer "+token, &answer); err != nil {
		return nil, retryLater(explainHeadscale(err))
	}
	if answer.Nodes == nil {
		return nil, errors.New(`the answer has no field "nodes"; hint: is the URL that of a Headscale?`)
	}
	return headscaleEntries(*answer.Nodes, h.o.RefuseExpired, time.Now()), nil
}

func explainHeadscale(err error) error {
	switch statusOf(err) {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the Headscale does not take the API key: %w; hint: make one with headscale apikeys create, and put it into token_file", err)
	case http.StatusNotFound:
		return fmt.Errorf("there is no API at this URL: %w; hint: it needs Headscale 0.23 or newer; without token_file its /verify is asked for each node", err)
	case 0: // no answer, or one that says more
		return err
	}
	return fmt.Errorf("%w; hint: the server's log says why", err)
}

func headscaleEntries(nodes []headscaleNode, refuseExpired bool, now time.Time) (list []Entry) {
	for _, n := range nodes {
		k, err := key.ParsePublic(n.NodeKey)
		if err != nil { // a node that has never logged in has none
			continue
		}
		if refuseExpired && n.Expiry != nil && n.Expiry.Year() > 1 && n.Expiry.Before(now) {
			continue
		}
		m := Member{Name: n.GivenName, User: n.User.Name}
		if m.Name == "" {
			m.Name = n.Name
		}
		if m.User == "" {
			m.User = n.User.Email
		}
		m.Tags = slices.Concat(n.Tags, n.ForcedTags, n.ValidTags)
		list = append(list, Entry{k, m.cleaned()})
	}
	return list
}
