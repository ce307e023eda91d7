package admit

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// verifier is an http.Handler that answers with what the test sets.
type verifier struct {
	status int
	body   string
	handle http.HandlerFunc // instead of those
	mu     sync.Mutex
	asked  []*http.Request // guarded by mu
	bodies []string        // guarded by mu
}

func (v *verifier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	v.mu.Lock()
	v.asked, v.bodies = append(v.asked, r), append(v.bodies, string(body))
	v.mu.Unlock()
	if v.handle != nil {
		v.handle(w, r)
		return
	}
	w.WriteHeader(v.status)
	io.WriteString(w, v.body)
}

// asks returns how often it was asked.
func (v *verifier) asks() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.asked)
}

func newSource(t *testing.T, o URLOptions) *urlSource {
	t.Helper()
	s, err := NewURL(o)
	must(t, err)
	t.Cleanup(s.(*urlSource).client.CloseIdleConnections)
	return s.(*urlSource)
}

// wantHinted checks an error that an operator will see.
func wantHinted(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, part := range append(parts, "; hint: ") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	if len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n") {
		t.Errorf("unfit for one line of a log: %q", err)
	}
}

func TestURLAnswers(t *testing.T) {
	const allow, refuse, unavailable = Allow, Refuse, Unavailable
	padded := `{"Allow":true` + strings.Repeat(" ", verifyBody) + "}"
	for _, test := range []struct {
		name           string
		status         int
		body           string
		strict, derper Answer
	}{
		{"allow", 200, `{"Allow":true}` + "\n", allow, allow},
		{"other case, more fields", 200, `{"allow":true,"Name":"x"}`, allow, allow},
		{"refuse", 200, `{"Allow":false}`, refuse, refuse},
		{"missing", 200, `{}`, unavailable, refuse},
		{"null", 200, `null`, unavailable, refuse},
		{"empty", 200, ``, unavailable, refuse},
		{"another type", 200, `{"Allow":"true"}`, unavailable, refuse},
		{"not JSON", 200, "<html>\r\nhello\x1b[2J", unavailable, refuse},
		{"half", 200, `{"Allow":true`, unavailable, refuse},
		{"something behind", 200, `{"Allow":true} {}`, unavailable, allow},
		{"huge", 200, padded, unavailable, refuse},
		{"created", 201, `{"Allow":true}`, unavailable, refuse},
		{"forbidden", 403, `{"Allow":true}`, unavailable, refuse},
		{"not found", 404, "nothing here", unavailable, refuse},
		{"broken", 500, "sorry", unavailable, refuse},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(&verifier{status: test.status, body: test.body})
			defer server.Close()
			s := newSource(t, URLOptions{URL: server.URL})
			v, err := s.Decide(t.Context(), Request{Key: numbered(1), Addr: somewhere})
			if v.Answer != test.strict {
				t.Errorf("%v, %v; want %v", v.Answer, err, test.strict)
			}
			if test.strict == Unavailable {
				wantHinted(t, err, server.URL)
			}
			s = newSource(t, URLOptions{URL: server.URL, Derper: true})
			if v, err := s.Decide(t.Context(), Request{Key: numbered(1)}); v.Answer != test.derper || err != nil || v.Doubtful != (test.strict == Unavailable && test.derper == Refuse) {
				t.Errorf("as derper: %+v, %v; want %v", v, err, test.derper)
			}
		})
	}
}

func TestURLQuestion(t *testing.T) {
	v := &verifier{status: 200, body: `{"Allow":true}`}
	server := httptest.NewServer(v)
	defer server.Close()
	s := newSource(t, URLOptions{URL: "http://user:pass%20word@" + server.Listener.Addr().String() + "/check?token=abcdef", Derper: true})
	for addr, source := range map[netip.Addr]string{
		somewhere: "203.0.113.7", {}: "", netip.MustParseAddr("2001:db8::1"): "2001:db8::1",
	} {
		v.asked, v.bodies = nil, nil
		wantAnswerFor(t, s, Request{Key: numbered(1), Addr: addr}, Allow)
		want := fmt.Sprintf(`{"NodePublic":%q,"Source":%q}`, numbered(1), source)
		if v.bodies[0] != want {
			t.Errorf("asked %s, want %s", v.bodies[0], want)
		}
	}
	r := v.asked[0]
	user, password, _ := r.BasicAuth()
	_, typed := r.Header["Content-Type"]
	if r.Method != "POST" || r.URL.String() != "/check?token=abcdef" || user != "user" || password != "pass word" || typed ||
		r.ContentLength != int64(len(v.bodies[0])) || r.Header.Get("User-Agent") != "Go-http-client/1.1" {
		t.Errorf("%s %s, %s:%s, %v", r.Method, r.URL, user, password, r.Header)
	}
}

func wantAnswerFor(t *testing.T, s Source, r Request, want Answer) {
	t.Helper()
	if v, err := s.Decide(t.Context(), r); v.Answer != want || (err != nil) != (want == Unavailable) {
		t.Errorf("%v, %v; want %v", v.Answer, err, want)
	}
}

func TestHeadscaleVerify(t *testing.T) {
	// Headscale's contract: POST alone, a body of 4 KiB at most, and whoever is registered.
	headscale := http.NewServeMux()
	headscale.HandleFunc("POST /hs/verify", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "{\"Allow\":%t}\n", strings.Contains(string(body), numbered(1).String()))
	})
	server := httptest.NewServer(headscale)
	defer server.Close()
	for _, base := range []string{"/hs", "/hs/"} {
		s, err := NewHeadscaleVerify(URLOptions{URL: server.URL + base})
		must(t, err)
		wantAnswer(t, s, 1, Allow)
		wantAnswer(t, s, 2, Refuse)
		if s.Name() != "headscale" || s.(Forwarder).Forwards() {
			t.Errorf("%s, forwards: %v", s.Name(), s.(Forwarder).Forwards())
		}
		s.(*urlSource).client.CloseIdleConnections()
	}
	s, err := NewHeadscaleVerify(URLOptions{URL: server.URL})
	must(t, err)
	_, err = s.Decide(t.Context(), Request{Key: numbered(1)})
	wantHinted(t, err, server.URL+"/verify", "404", "check the path")
	s.(*urlSource).client.CloseIdleConnections()
}

func TestURLTransport(t *testing.T) {
	for _, test := range []struct {
		name   string
		handle http.HandlerFunc
		derper Answer
		says   string
	}{
		{"dies before its answer", hangUp, Unavailable, "cannot be reached"},
		{"dies in mid-answer", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"Allow":`)
			w.(http.Flusher).Flush()
			hangUp(w, r)
		}, Refuse, "broke off its answer"},
		{"is not HTTP", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			io.WriteString(conn, "SSH-2.0-OpenSSH_9.9\r\n")
			conn.Close()
		}, Unavailable, "cannot be reached"},
		{"redirects for ever", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/again", http.StatusTemporaryRedirect)
		}, Unavailable, "more than 3 redirects"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := &verifier{handle: test.handle}
			server := httptest.NewServer(v)
			defer server.Close()
			_, err := newSource(t, URLOptions{URL: server.URL}).Decide(t.Context(), Request{Key: numbered(1)})
			wantHinted(t, err, test.says)
			if n := v.asks(); n > 1+maxRedirects {
				t.Errorf("asked %d times", n)
			}
			wantAnswer(t, newSource(t, URLOptions{URL: server.URL, Derper: true}), 1, test.derper)
		})
	}
}

func hangUp(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

func TestURLRedirectIsFollowed(t *testing.T) {
	v := &verifier{status: 200, body: `{"Allow":true}`}
	v.handle = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/elsewhere", http.StatusPermanentRedirect)
			return
		}
		io.WriteString(w, v.body)
	}
	server := httptest.NewServer(v)
	defer server.Close()
	wantAnswer(t, newSource(t, URLOptions{URL: server.URL}), 1, Allow)
	if len(v.bodies) != 2 || v.bodies[0] != v.bodies[1] {
		t.Errorf("asked %q", v.bodies)
	}
}

func TestURLKeepsEncryption(t *testing.T) {
	plain := httptest.NewServer(&verifier{status: 200, body: `{"Allow":true}`})
	defer plain.Close()
	server := httptest.NewUnstartedServer(http.RedirectHandler(plain.URL, http.StatusTemporaryRedirect))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // hears that its certificate is not trusted
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	_, err := newSource(t, URLOptions{URL: server.URL, CAFile: ca}).Decide(t.Context(), Request{Key: numbered(1)})
	wantHinted(t, err, "a redirect from https to http")
	_, err = newSource(t, URLOptions{URL: server.URL}).Decide(t.Context(), Request{Key: numbered(1)})
	wantHinted(t, err, "certificate")
}

func TestURLDownAndBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	l.Close()
	s := newSource(t, URLOptions{URL: "http://" + addr})
	_, err = s.Decide(t.Context(), Request{Key: numbered(1)})
	wantHinted(t, err, addr, "refused")
	for range 2 { // a server that was restarted is no failure
		if l, err = net.Listen("tcp", addr); err != nil {
			t.Skipf("another took the port: %v", err)
		}
		server := &httptest.Server{Listener: l, Config: &http.Server{Handler: &verifier{status: 200, body: `{"Allow":true}`}}}
		server.Start()
		wantAnswer(t, s, 1, Allow)
		server.Close()
	}
}

func TestURLHangs(t *testing.T) {
	free := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/body") {
			w.(http.Flusher).Flush()
		}
		<-free
	}))
	defer server.Close()
	defer close(free)
	for _, path := range []string{"/header", "/body"} {
		c := Cached(newSource(t, URLOptions{URL: server.URL + path}), CacheOptions{Timeout: 20 * time.Millisecond})
		_, err := c.Decide(t.Context(), Request{Key: numbered(1)})
		wantHinted(t, err, "no answer in time")
	}
}

func TestURLRefusesOptions(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	must(t, os.WriteFile(empty, nil, 0o600))
	for _, o := range []URLOptions{
		{},
		{URL: "example.com/verify"},
		{URL: "ftp://example.com"},
		{URL: "https://"},
		{URL: "https://:443/"},
		{URL: "https://user:hunter2secret@exa mple/"},
		{URL: "https://example.com", CAFile: empty},
		{URL: "https://example.com", CAFile: empty + ".missing"},
	} {
		_, err := NewURL(o)
		wantHinted(t, err)
		if err != nil && strings.Contains(err.Error(), "hunter2secret") {
			t.Errorf("shows the password: %v", err)
		}
		if o.CAFile == "" {
			_, err = NewHeadscaleVerify(o)
			wantHinted(t, err)
		}
	}
}

func TestURLHidesSecrets(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.Header.Get("Authorization")+" "+r.URL.String(), http.StatusForbidden) // shows all that it was given
	}))
	url := "http://alice:hunter2secret@" + server.Listener.Addr().String() + "/x?token=topsecrettoken"
	s := newSource(t, URLOptions{URL: url})
	c := Cached(s, CacheOptions{})
	check := func() {
		t.Helper()
		_, err := c.Decide(t.Context(), Request{Key: numbered(1)})
		wantHinted(t, err, server.URL+"/x")
		for _, shown := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", c.Report()), c.Name()} {
			for _, secret := range []string{"hunter2secret", "topsecrettoken", "YWxpY2U6aHVudGVyMnNlY3JldA"} {
				if strings.Contains(shown, secret) {
					t.Errorf("%q shows %s", shown, secret)
				}
			}
		}
	}
	check()
	server.Close()
	check()
}

func TestClean(t *testing.T) {
	for _, test := range []struct {
		text  string
		limit int
		want  string
	}{
		{"plain", 10, "plain"},
		{" a\r\n\tb\x00c ", 10, "a b c"},
		{"\x1b[31mred\xff", 20, "[31mred"},
		{"aä", 2, "a"},
		{strings.Repeat("x", 100), 3, "xxx"},
	} {
		if got := clean(test.text, test.limit); got != test.want {
			t.Errorf("%q: %q, want %q", test.text, got, test.want)
		}
	}
	if got := firstLine("\r\none two\nthree", 20); got != "one two" {
		t.Errorf("first line %q", got)
	}
}

func FuzzVerifyAnswer(f *testing.F) {
	f.Add(200, []byte(`{"Allow":true}`))
	f.Add(200, []byte(`{"allow":false} x`))
	f.Add(500, []byte("\xff"))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		strict, wrong := readVerify(status, body)
		derper, clear := readAsDerper(status, strings.NewReader(string(body)))
		if (strict == Unavailable) != (wrong != "") || len(wrong) > 1000 {
			t.Errorf("%v with %q", strict, wrong)
		}
		if derper == Unavailable || derper == Allow && status != http.StatusOK {
			t.Errorf("as derper: %v", derper)
		}
		// Where the strict reading is sure, derper's is the same, and sure.
		if strict != Unavailable && (strict != derper || !clear) || derper == Allow && !clear {
			t.Errorf("%v, and as derper %v, %v", strict, derper, clear)
		}
	})
}

func FuzzWhoisAnswer(f *testing.F) {
	f.Add(200, []byte(whoisAnswer))
	f.Add(404, []byte("no match"))
	f.Add(200, []byte(`{"Node":[],"UserProfile":{"LoginName":1}}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		v, wrong := readWhois(status, body)
		if (v.Answer == Unavailable) != (wrong != "") || len(wrong) > 1000 {
			t.Errorf("%v with %q", v.Answer, wrong)
		}
		if v.Answer == Allow && (status != http.StatusOK || len(v.Member.Name) > nameLimit || len(v.Member.User) > nameLimit || len(v.Member.Tags) > tagLimit) {
			t.Errorf("%+v", v)
		}
	})
}

// whoisAnswer has the shape of tailscaled's.
const whoisAnswer = `{"Node":{"Name":"laptop.tail1234.ts.net.","ComputedName":"laptop","Tags":["tag:a","tag:b"],"Key":"nodekey:00"},
	"UserProfile":{"LoginName":"alice@example.com","DisplayName":"Alice"},"CapMap":{"x":[{}]}}`
