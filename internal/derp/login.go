package derp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/detour-relay/detour/internal/key"
)

// What the HTTP upgrade consists of, for both ends.
const (
	Path             = "/derp"
	UpgradeProtocol  = "DERP"            // value of Upgrade, in any case
	WebSocketProtoID = "derp"            // WebSocket subprotocol
	FastStartHeader  = "Derp-Fast-Start" // "1": send no HTTP response
	IdealNodeHeader  = "Ideal-Node"      // the relay that the client would have liked better
	VersionHeader    = "Derp-Version"
	PublicKeyHeader  = "Derp-Public-Key" // the server key in hex, with or without "nodekey:"
	MetaCertPrefix   = "derpkey"         // begins the subject of the meta certificate, before the server key in hex
)

// magic opens the greeting: "DERP" and a key in UTF-8.
var magic = [magicSize]byte{'D', 'E', 'R', 'P', 0xf0, 0x9f, 0x94, 0x91}

// AppendServerKey appends the greeting frame.
func AppendServerKey(dst []byte, server key.Public) []byte {
	dst = AppendHeader(dst, ServerKey, magicSize+key.Size)
	return append(append(dst, magic[:]...), server[:]...)
}

// ParseServerKey reads the body of the greeting.
func ParseServerKey(body []byte) (key.Public, error) {
	if len(body) < magicSize+key.Size || !bytes.Equal(body[:magicSize], magic[:]) {
		return key.Public{}, errors.New("greeting is not DERP's")
	}
	return key.Public(body[magicSize:]), nil
}

// ClientParams is what a client says of itself at login.
type ClientParams struct {
	MeshKey     key.Mesh // zero for all but sibling relays
	Version     int      // the relay serves every version alike
	CanAckPings bool     // it answers Pings from the relay
	IsProber    bool     // it measures the relay
	AppName     string   // for statistics, at most MaxAppName bytes
}

// MaxAppName bounds ClientParams.AppName in bytes; what is longer is cut.
const MaxAppName = 64

// clientJSON is ClientParams on the wire. Names match in any case and unknown
// ones are ignored, as encoding/json has it.
type clientJSON struct {
	MeshKey     meshField `json:"meshKey,omitzero"`
	Version     int       `json:"version,omitempty"`
	CanAckPings bool
	IsProber    bool   `json:",omitempty"`
	AppName     string `json:",omitempty"`
}

// meshField is a mesh key that, where it stands at all, must be 64 hex digits.
// Even null is refused: a sibling that has lost its key must not pass for a client.
type meshField struct{ key.Mesh }

func (m *meshField) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return errors.New("mesh key is null")
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("mesh key: %w", err)
	}
	k, err := key.ParseMesh(s)
	m.Mesh = k
	return err
}

func (m meshField) MarshalJSON() ([]byte, error) { return json.Marshal(m.Reveal()) }

// ParseClientInfo splits the body of ClientInfo into the client's key and what
// it has sealed for the relay.
func ParseClientInfo(body []byte) (client key.Public, sealed []byte, err error) {
	if err := CheckLength(ClientInfo, uint32(len(body))); err != nil {
		return key.Public{}, nil, err
	}
	client = key.Public(body)
	if client.IsZero() {
		return key.Public{}, nil, errors.New("client key is zero")
	}
	return client, body[key.Size:], nil
}

// OpenClientInfo opens what ParseClientInfo split off.
func OpenClientInfo(s key.Shared, sealed []byte) (ClientParams, error) {
	msg, ok := s.Open(nil, sealed)
	if !ok {
		return ClientParams{}, errors.New("client info was not sealed by the key it names for this relay")
	}
	var j clientJSON
	if err := json.Unmarshal(msg, &j); err != nil {
		return ClientParams{}, fmt.Errorf("client info: %w", err)
	}
	return ClientParams{
		MeshKey: j.MeshKey.Mesh, Version: j.Version, CanAckPings: j.CanAckPings, IsProber: j.IsProber,
		AppName: strings.ToValidUTF8(j.AppName[:min(len(j.AppName), MaxAppName)], ""),
	}, nil
}

// AppendClientInfo appends the frame by which a client logs in.
func AppendClientInfo(dst []byte, client key.Public, s key.Shared, p ClientParams) ([]byte, error) {
	msg, err := json.Marshal(clientJSON{
		MeshKey: meshField{p.MeshKey}, Version: p.Version, CanAckPings: p.CanAckPings, IsProber: p.IsProber, AppName: p.AppName,
	})
	if err != nil {
		return nil, fmt.Errorf("client info: %w", err)
	}
	dst = AppendHeader(dst, ClientInfo, key.Size+key.Overhead+len(msg))
	return s.Seal(append(dst, client[:]...), msg), nil
}

// ServerParams is what a relay tells a client at the end of the login, and
// again whenever it changes.
type ServerParams struct {
	Version                   int `json:"version"`
	TokenBucketBytesPerSecond int `json:",omitempty"` // official clients limit their sending to this; 0: no limit
	TokenBucketBytesBurst     int `json:",omitempty"` // depth of that bucket; a packet costs 37 bytes more than it has
}

// AppendServerInfo appends a ServerInfo frame.
func AppendServerInfo(dst []byte, s key.Shared, p ServerParams) ([]byte, error) {
	msg, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("server info: %w", err)
	}
	return s.Seal(AppendHeader(dst, ServerInfo, key.Overhead+len(msg)), msg), nil
}

// OpenServerInfo opens the body of ServerInfo.
func OpenServerInfo(s key.Shared, body []byte) (ServerParams, error) {
	msg, ok := s.Open(nil, body)
	if !ok {
		return ServerParams{}, errors.New("server info was not sealed by the relay's key for this client")
	}
	var p ServerParams
	if err := json.Unmarshal(msg, &p); err != nil {
		return ServerParams{}, fmt.Errorf("server info: %w", err)
	}
	return p, nil
}
