//go:build unix

package admit

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// localAPI runs an http.Handler behind a unix socket.
func localAPI(t *testing.T, socket string, h http.Handler) *httptest.Server {
	t.Helper()
	l, err := net.Listen("unix", socket)
	must(t, err)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// socketDir is short enough for the socket's name on every system.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "d")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestTailscaledQuestion(t *testing.T) {
	socket := filepath.Join(socketDir(t), "s")
	v := &verifier{status: 200, body: whoisAnswer}
	localAPI(t, socket, v)
	got, err := NewTailscaled(TailscaledOptions{Socket: socket}).Decide(t.Context(), Request{Key: numbered(1), Addr: somewhere})
	want := Verdict{Answer: Allow, Member: Member{Name: "laptop", User: "alice@example.com", Tags: []string{"tag:a", "tag:b"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	r := v.asked[0]
	if r.Method != "GET" || r.Host != "local-tailscaled.sock" || r.Header.Get("Tailscale-Cap") != whoisCapability ||
		r.RequestURI != "/localapi/v0/whois?addr=nodekey%3A"+numbered(1).Hex() || r.Header.Get("User-Agent") != "Go-http-client/1.1" {
		t.Errorf("%s %s, host %s, %v", r.Method, r.RequestURI, r.Host, r.Header)
	}
}

func TestTailscaledAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		body   string
		want   Answer
		says   string
	}{
		{"unknown", 404, "no match for IP:port", Refuse, ""},
		{"an object that we do not know", 200, `{"Node":[1],"UserProfile":null,"More":{}}`, Allow, ""},
		{"an empty object", 200, `{}`, Allow, ""},
		{"null", 200, `null`, Unavailable, "JSON object"},
		{"a list", 200, `[]`, Unavailable, "JSON object"},
		{"half an object", 200, `{"Node":`, Unavailable, "JSON object"},
		{"too old", 400, "invalid 'addr' parameter", Unavailable, "too old"},
		{"forbidden", 403, "whois access denied", Unavailable, "--operator"},
		{"precondition", 412, "no backend", Unavailable, "412"},
		{"redirect", 302, "", Unavailable, "302"},
		{"huge", 200, `{"a":"` + strings.Repeat("x", whoisBody) + `"}`, Unavailable, "octets"},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := filepath.Join(socketDir(t), "s")
			v := &verifier{}
			v.handle = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}
			localAPI(t, socket, v)
			got, err := NewTailscaled(TailscaledOptions{Socket: socket}).Decide(t.Context(), Request{Key: numbered(1)})
			if got.Answer != test.want {
				t.Errorf("%v, %v", got.Answer, err)
			}
			if test.want == Unavailable {
				wantHinted(t, err, socket, test.says)
			}
			if n := v.asks(); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestTailscaledComesLaterAndRestarts(t *testing.T) {
	socket := filepath.Join(socketDir(t), "s")
	s := NewTailscaled(TailscaledOptions{Socket: socket})
	_, err := s.Decide(t.Context(), Request{Key: numbered(1)})
	wantHinted(t, err, socket, "see whether tailscaled runs")
	for range 3 {
		server := localAPI(t, socket, &verifier{status: 200, body: "{}"})
		wantAnswer(t, s, 1, Allow)
		wantAnswer(t, s, 1, Allow)
		server.CloseClientConnections()
		wantAnswer(t, s, 1, Allow) // on a new connection
		server.Close()
		_, err := s.Decide(t.Context(), Request{Key: numbered(1)})
		wantHinted(t, err, socket)
	}
	localAPI(t, socket, &verifier{handle: hangUpUnix})
	_, err = s.Decide(t.Context(), Request{Key: numbered(1)})
	wantHinted(t, err, socket)
}

func hangUpUnix(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")
		conn.Close()
	}
}

func TestTailscaledSocket(t *testing.T) {
	for _, test := range []struct{ system, there, want string }{
		{"linux", "/var/run", "/var/run/tailscale/tailscaled.sock"},
		{"freebsd", "/var/run", "/var/run/tailscale/tailscaled.sock"},
		{"linux", "", "tailscaled.sock"},
		{"linux", "/var/packages/Tailscale/var", "/var/packages/Tailscale/var/tailscaled.sock"},
		{"linux", "/var/packages/Tailscale/etc", "/var/packages/Tailscale/etc/tailscaled.sock"},
		{"linux", "/etc/config/qpkg.conf", "/tmp/tailscale/tailscaled.sock"},
		{"linux", "/perm/tailscaled", "/perm/tailscaled/tailscaled.sock"},
		{"darwin", "/var/run", "/var/run/tailscaled.socket"},
		{"windows", "", `\\.\pipe\ProtectedPrefix\Administrators\Tailscale\tailscaled`},
	} {
		if got := tailscaledSocket(test.system, func(path string) bool { return path == test.there }); got != test.want {
			t.Errorf("%s with %q: %s", test.system, test.there, got)
		}
	}
	_, err := NewTailscaled(TailscaledOptions{Socket: `\\.\pipe\x`}).Decide(t.Context(), Request{Key: numbered(1)})
	wantHinted(t, err, "named pipe")
}
