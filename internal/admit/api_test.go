package admit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func secret(text string) Secret { return func() (string, error) { return text, nil } }

// headscaleNodes is an answer of Headscale 0.26, shortened.
func headscaleNodes() string {
	return fmt.Sprintf(`{"nodes":[
 {"id":"1","machineKey":"mkey:00","nodeKey":%q,"discoKey":"discokey:00","ipAddresses":["100.64.0.1"],"name":"host-1","givenName":"laptop",
  "user":{"id":"1","name":"ann","displayName":"Ann"},"expiry":"0001-01-01T00:00:00Z","forcedTags":["tag:home"],"validTags":[],"online":true},
 {"id":"2","nodeKey":%q,"name":"host-2","givenName":"","user":{"name":"","email":"bob@example.com"},"expiry":"2020-01-01T00:00:00Z","tags":["tag:a"]},
 {"id":"3","nodeKey":"","name":"never came"}]}`, numbered(1), numbered(2))
}

func TestHeadscaleAPI(t *testing.T) {
	var path, auth string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, auth = r.URL.Path, r.Header.Get("Authorization")
		fmt.Fprint(w, headscaleNodes())
	}))
	defer s.Close()
	for refuse, want := range map[bool][]Entry{
		false: {{numbered(1), Member{"laptop", "ann", []string{"tag:home"}}}, {numbered(2), Member{"host-2", "bob@example.com", []string{"tag:a"}}}},
		true:  {{numbered(1), Member{"laptop", "ann", []string{"tag:home"}}}},
	} {
		l, err := NewHeadscale(HeadscaleOptions{Name: "hs", URL: s.URL + "/", Token: secret("k3y"), RefuseExpired: refuse})
		must(t, err)
		got, err := l.List(t.Context())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
	}
	if path != "/api/v1/node" || auth != "Bearer k3y" {
		t.Errorf("asked %s with %s", path, auth)
	}
}

// Whatever a server does, the error tells what to do and no secret.
func TestListServersThatFail(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	handlers := map[string]http.HandlerFunc{
		"takes no key": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Unauthorized", http.StatusUnauthorized) },
		"has no API":   http.NotFound,
		"other JSON":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"status":"ok"}`) },
		"null":         func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `null`) },
		"a page":       func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<html>`) },
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"nod`)
		},
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		},
		"huge":          func(w http.ResponseWriter, r *http.Request) { huge(w, r) },
		"never answers": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"breaks":        func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"later, please": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "77")
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"an echo": func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "you sent "+r.Header.Get("Authorization"), http.StatusBadGateway)
		},
		"a server error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oops", http.StatusInternalServerError) },
	}
	for name, handler := range handlers {
		s := httptest.NewServer(handler)
		for kind, make := range map[string]func() (Lister, error){
			"headscale": func() (Lister, error) { return NewHeadscale(HeadscaleOptions{URL: s.URL, Token: secret("s3cret")}) },
			"tailscale": func() (Lister, error) {
				return NewTailscale(TailscaleOptions{Tailnet: "-", BaseURL: s.URL, Key: secret("s3cret")})
			},
		} {
			l, err := make()
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if name == "huge" {
				ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
			}
			got, err := l.List(ctx)
			cancel()
			switch {
			case err == nil:
				t.Errorf("%s, %s: %d entries and no error", kind, name, len(got))
			case strings.Contains(err.Error(), "s3cret"):
				t.Errorf("%s, %s: tells the secret: %v", kind, name, err)
			case name == "later, please":
				if later, ok := errors.AsType[*RetryError](err); !ok || later.After != 77*time.Second {
					t.Errorf("%s, %s: %v", kind, name, err)
				}
			case !strings.Contains(err.Error(), "; hint: "):
				t.Errorf("%s, %s: no hint: %v", kind, name, err)
			}
		}
		s.CloseClientConnections()
		s.Close()
	}
	l, _ := NewHeadscale(HeadscaleOptions{URL: gone.URL, Token: secret("s3cret")})
	if _, err := l.List(t.Context()); err == nil {
		t.Error("a server that is gone")
	}
	l, _ = NewHeadscale(HeadscaleOptions{URL: gone.URL, Token: SecretFile(filepath.Join(t.TempDir(), "none"))})
	if _, err := l.List(t.Context()); err == nil || !strings.Contains(err.Error(), "; hint: ") {
		t.Errorf("no token: %v", err)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func huge(w http.ResponseWriter, _ *http.Request) {
	chunk := []byte(strings.Repeat(" ", 1<<20))
	for range maxList>>20 + 2 {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// fakeTailnet answers as Tailscale's API does.
type fakeTailnet struct {
	devices []map[string]any
	tokens  int  // that were given out
	stale   bool // the present token is not taken any more
}

func (f *fakeTailnet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/v2/oauth/token":
		if r.FormValue("client_id") != "kid" || r.FormValue("client_secret") != "s3cret" {
			http.Error(w, `{"message":"API token invalid"}`, http.StatusUnauthorized)
			return
		}
		f.tokens++
		f.stale = false
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"tskey-%d","token_type":"Bearer","expires_in":3600,"scope":"devices:core:read"}`, f.tokens)
	case "/api/v2/tailnet/example.com/devices":
		auth := r.Header.Get("Authorization")
		if f.stale || auth != "Bearer api-key" && auth != fmt.Sprintf("Bearer tskey-%d", f.tokens) {
			http.Error(w, `{"message":"API token invalid"}`, http.StatusUnauthorized)
			return
		}
		if err := json.NewEncoder(w).Encode(map[string]any{"devices": f.devices}); err != nil {
			panic(err)
		}
	default:
		http.NotFound(w, r)
	}
}

func newTailnet() *fakeTailnet {
	device := func(n int, more map[string]any) map[string]any {
		d := map[string]any{
			"addresses": []string{"100.64.0.1"}, "id": "1", "nodeId": "n1", "user": "ann@example.com", "name": fmt.Sprintf("host-%d.tail1234.ts.net", n),
			"hostname": "host", "authorized": true, "isExternal": false, "keyExpiryDisabled": false, "expires": "2999-01-01T00:00:00Z",
			"nodeKey": numbered(n).String(), "machineKey": "mkey:00",
		}
		for k, v := range more {
			d[k] = v
		}
		return d
	}
	return &fakeTailnet{devices: []map[string]any{
		device(1, map[string]any{"tags": []string{"tag:server"}}),
		device(2, map[string]any{"authorized": false}),
		device(3, map[string]any{"expires": "2020-01-01T00:00:00Z"}),
		device(4, map[string]any{"expires": "2020-01-01T00:00:00Z", "keyExpiryDisabled": true}),
		device(5, map[string]any{"nodeKey": ""}),
		device(6, map[string]any{"expires": "0001-01-01T00:00:00Z"}),
		device(7, map[string]any{"expires": ""}),
		device(8, map[string]any{"expires": "some day"}),
	}}
}

func keysOf(entries []Entry) (list []int) {
	for _, e := range entries {
		for n := range 10 {
			if e.Key == numbered(n) {
				list = append(list, n)
			}
		}
	}
	return list
}

func TestTailscaleAPI(t *testing.T) {
	f := newTailnet()
	s := httptest.NewServer(f)
	defer s.Close()
	base := TailscaleOptions{Tailnet: "example.com", BaseURL: s.URL, Key: secret("api-key")}
	lax := base
	lax.AllowExpired, lax.AllowUnauthorized = true, true
	for want, o := range map[string]TailscaleOptions{"[1 4 6 7]": base, "[1 2 3 4 6 7 8]": lax} {
		l, err := NewTailscale(o)
		must(t, err)
		got, err := l.List(t.Context())
		if err != nil || fmt.Sprint(keysOf(got)) != want {
			t.Errorf("got %v, %v, want %s", keysOf(got), err, want)
		}
		if want := (Member{"host-1", "ann@example.com", []string{"tag:server"}}); !reflect.DeepEqual(got[0].Member, want) {
			t.Errorf("member %+v", got[0].Member)
		}
	}
	wrong := base
	wrong.Tailnet = "other.com"
	l, _ := NewTailscale(wrong)
	if _, err := l.List(t.Context()); err == nil || !strings.Contains(err.Error(), "hint: write tailscale=-") {
		t.Errorf("another tailnet: %v", err)
	}
}

func TestTailscaleOAuth(t *testing.T) {
	f := newTailnet()
	s := httptest.NewServer(f)
	defer s.Close()
	o := TailscaleOptions{Tailnet: "example.com", BaseURL: s.URL, OAuthID: "kid", OAuthSecret: secret("s3cret")}
	l, err := NewTailscale(o)
	must(t, err)
	for range 3 {
		if _, err := l.List(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if f.tokens != 1 {
		t.Errorf("%d tokens for three lists", f.tokens)
	}
	f.stale = true
	if _, err := l.List(t.Context()); err != nil || f.tokens != 2 {
		t.Errorf("after the token was revoked: %v, %d tokens", err, f.tokens)
	}
	o.OAuthSecret = secret("wrong-one")
	l, _ = NewTailscale(o)
	if _, err := l.List(t.Context()); err == nil || !strings.Contains(err.Error(), "hint: check oauth_id") || strings.Contains(err.Error(), "wrong-one") {
		t.Errorf("a wrong secret: %v", err)
	}
}

func TestKeysFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	write := func(text string) {
		t.Helper()
		must(t, os.WriteFile(path+".new", []byte(text), 0o600))
		must(t, os.Rename(path+".new", path))
	}
	write("\xef\xbb\xbf# mine\r\n\r\n" + numbered(1).String() + " laptop home work # Ann's\r\n" + numbered(2).String() + "\n")
	f, err := NewKeysFile(path, nil)
	must(t, err)
	if v, _ := f.Peek(Request{Key: numbered(1)}); !reflect.DeepEqual(v, Verdict{Answer: Allow, Member: Member{Name: "laptop", Tags: []string{"home", "work"}}}) {
		t.Errorf("%+v", v)
	}
	for n, want := range map[int]Answer{2: Allow, 3: Refuse} {
		if v, known := f.Peek(Request{Key: numbered(n)}); v.Answer != want || !known {
			t.Errorf("key %d: %+v, %v", n, v, known)
		}
	}
	if f.look() {
		t.Error("changed by itself")
	}
	write(numbered(3).String() + "\n")
	if f.look() {
		t.Error("a new file is taken at the first look")
	}
	if !f.look() {
		t.Error("a new file is not seen")
	}
	if v, _ := f.Peek(Request{Key: numbered(1)}); v.Answer != Refuse {
		t.Error("who was taken out is still in")
	}
	write(numbered(4).String() + "\nnodekey:zz\n")
	for range 3 {
		if f.look() {
			t.Error("a wrong file is taken")
		}
	}
	if r := f.Report().(KeysReport); r.Keys != 1 || !strings.Contains(r.Error, "line 2") {
		t.Errorf("report %+v", r)
	}
	write(numbered(3).String() + "\n")
	f.look()
	f.look()
	must(t, os.Rename(path, path+".away"))
	if f.look() || f.Report().(KeysReport).Error == "" {
		t.Error("a missing file is taken")
	}
	must(t, os.Rename(path+".away", path))
	f.look()
	if text := f.Report().(KeysReport).Error; text != "" {
		t.Errorf("away and back: %s", text)
	}
	if os.Geteuid() != 0 { // whom no mode keeps out
		write(numbered(6).String() + "\n")
		must(t, os.Chmod(path, 0))
		f.look()
		f.look()
		must(t, os.Chmod(path, 0o600))
		if !f.look() {
			t.Error("a file that can be read by now is not")
		}
		write(numbered(3).String() + "\n")
		f.look()
		f.look()
	}
	must(t, os.Truncate(path, 0)) // somebody begins to write it
	if f.look() {
		t.Error("a file is taken while it is written")
	}
	must(t, os.Remove(path))
	f.look()
	if v, _ := f.Peek(Request{Key: numbered(3)}); v.Answer != Allow {
		t.Error("the keys are lost with the file")
	}
	if _, err := NewKeysFile(path, nil); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("missing at the start: %v", err)
	}
	if _, err := NewKeysFile(t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("a directory: %v", err)
	}
	for text, want := range map[string]string{
		"\n\nmkey:" + strings.Repeat("0", 64): "line 3", "discokey:00": "is no node key",
		"nodekey:" + strings.Repeat("0", 64): "all zero", numbered(1).String() + " " + strings.Repeat("x", 300): "longer than" + "",
	} {
		if _, err := ParseKeys([]byte(text)); err == nil || want != "longer than" && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(numbered(1).String() + " a b # c\n"))
	f.Add([]byte("\xef\xbb\xbfnodekey:\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		members, err := ParseKeys(text)
		if err != nil && !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%v names no line", err)
		}
		for k := range members {
			if k.IsZero() {
				t.Error("the zero key is a member")
			}
		}
	})
}

func FuzzHeadscaleNodes(f *testing.F) {
	f.Add([]byte(headscaleNodes()))
	f.Fuzz(func(t *testing.T, text []byte) {
		var answer struct {
			Nodes *[]headscaleNode `json:"nodes"`
		}
		if json.Unmarshal(text, &answer) != nil || answer.Nodes == nil {
			return
		}
		for _, e := range headscaleEntries(*answer.Nodes, true, time.Now()) {
			_ = e.Key.String()
		}
	})
}

func FuzzTailscaleDevices(f *testing.F) {
	for _, d := range newTailnet().devices {
		text, err := json.Marshal(map[string]any{"devices": []any{d}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var answer struct {
			Devices *[]tailscaleDevice `json:"devices"`
		}
		if json.Unmarshal(text, &answer) != nil || answer.Devices == nil {
			return
		}
		strict := (&tailscale{}).entries(*answer.Devices, time.Now())
		lax := (&tailscale{o: TailscaleOptions{AllowExpired: true, AllowUnauthorized: true}}).entries(*answer.Devices, time.Now())
		if len(strict) > len(lax) {
			t.Errorf("%d are admitted strictly, %d laxly", len(strict), len(lax))
		}
	})
}
