package daemon

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/mapkeep"
)

// MapStats are the figures of the kept map.
type MapStats struct {
	mapkeep.Stats
	Address         *mapkeep.AddressStats `json:"address,omitempty"`
	RefusedRequests uint64                `json:"refused_requests"` // for the map, without the token
}

// prepareKeeper makes what keeps the DERP map. What it needs to know of the relay it
// asks while it runs.
func (d *Daemon) prepareKeeper(context.Context) (err error) {
	d.mapConfig.Store(&d.cfg)
	d.mapGate = &mapkeep.Gate{
		Token: func() (string, error) {
			return mapkeep.TokenFile("map_token_file", d.mapConfig.Load().MapTokenFile)()
		},
		Next:   http.HandlerFunc(d.serveMap),
		Failed: d.tellOfMapToken,
	}
	if d.cfg.MapTokenFile != "" {
		if _, err := d.mapGate.Token(); err != nil {
			return err
		}
	}
	d.keeper, err = mapkeep.New(mapkeep.Options{
		Settings: keptSettings(d.cfg), Own: d.ownMap, StateDir: d.cfg.StateDir, Logger: d.log,
	})
	if err != nil || d.cfg.MapListen == config.Off {
		return err
	}
	var handler http.Handler = d.mapGate
	if !d.cfg.MapListensBeyond() {
		handler = d.mapGate.Next
	}
	if d.mapServer, err = mapkeep.Listen(d.cfg.MapListen, handler, d.log); err != nil {
		return err
	}
	d.cfg.MapListen = d.mapServer.Addr().String()
	return nil
}

func (d *Daemon) serveMap(w http.ResponseWriter, r *http.Request) { d.keeper.ServeHTTP(w, r) }

// publicMap answers requests for the map at the relay's own doors, where that is
// turned on.
func (d *Daemon) publicMap(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != mapkeep.Path || !d.mapConfig.Load().MapPublic {
		return false
	}
	d.mapGate.ServeHTTP(w, r)
	return true
}

// tokenTold is how often a token that cannot be read is told of: strangers ask.
const tokenTold = time.Minute

func (d *Daemon) tellOfMapToken(err error) {
	now := time.Now().UnixNano()
	last := d.mapTold.Load()
	if last != 0 && now-last < int64(tokenTold) || !d.mapTold.CompareAndSwap(last, now) {
		return
	}
	d.log.Error("the DERP map is served to nobody who needs a token", "err", err)
}

// keptSettings are those of the keeper.
func keptSettings(c config.Config) mapkeep.Settings {
	s := mapkeep.Settings{File: c.MapWrite, Refresh: c.MapRefresh}
	for _, e := range c.MapEntries() {
		one := mapkeep.Source{Place: e.Place, Pin: e.Pin, CAFile: e.CAFile}
		if e.TokenFile != "" {
			one.Token = mapkeep.TokenFile("token_file of map_sources", e.TokenFile)
		}
		s.Sources = append(s.Sources, one)
	}
	return s
}

// ownMap is the map of this relay alone, as clients need it now. While the ports are
// not yet what the state says, it is not known.
func (d *Daemon) ownMap() (derpmap.Map, error) {
	select {
	case <-d.Settled():
	default:
		return derpmap.Map{}, mapkeep.ErrNotYet
	}
	if !d.rotationFollowed() {
		return derpmap.Map{}, mapkeep.ErrNotYet
	}
	m, _, err := d.Map(false)
	if err == nil && !d.rotationFollowed() { // a step was taken meanwhile
		err = mapkeep.ErrNotYet
	}
	return m, err
}

// rotationFollowed reports whether the ports are in the phase that the command has
// set, so that the map which it leads to is true.
func (d *Daemon) rotationFollowed() bool {
	if !d.rotating() {
		return true
	}
	r, err := rotationOf(d.cfg)
	if err != nil {
		return false // its part says why
	}
	var followed cert.Phase
	if p := d.rotationPhase.Load(); p != nil {
		followed = *p
	}
	return r.Phase == followed
}

// rotating reports whether this relay follows rotations.
func (d *Daemon) rotating() bool { return len(d.doors) > 0 && rotates(d.cfg) && !d.derper }

// reloadMap takes the settings of the kept map from what load returns.
func (d *Daemon) reloadMap() {
	if d.load == nil {
		return
	}
	next, err := d.load()
	if err != nil {
		d.log.Error("the settings are not read again: something is wrong in them; the relay goes on with those it has", "err", err)
		return
	}
	if next.MapTokenFile != "" {
		if _, err := mapkeep.TokenFile("map_token_file", next.MapTokenFile)(); err != nil {
			d.log.Error("the settings of the DERP map stay as they are", "err", err)
			return
		}
	}
	if err := d.keeper.Set(keptSettings(next)); err != nil {
		d.log.Error("the settings of the DERP map stay as they are", "err", err)
		return
	}
	d.follower.Set(d.addressSources(next))
	d.keeper.Poke()
	if !reflect.DeepEqual(withoutMap(next), withoutMap(d.loaded)) {
		d.log.Warn("settings have changed that are read at the start only; hint: restart the relay to use them, or undo the change")
	}
	d.log.Info("took the settings of the DERP map anew", "map_write", next.MapWrite, "sources", len(next.MapSources))
	d.mapConfig.Store(&next)
}

// withoutMap leaves out the settings that a reload takes.
func withoutMap(c config.Config) config.Config {
	c.MapWrite, c.MapSources, c.MapRefresh, c.MapPublic, c.MapTokenFile, c.MapAddress = "", nil, 0, false, "", nil
	return c
}

// mapStats are nil where no setting asks for a kept map.
func (d *Daemon) mapStats() *MapStats {
	address := d.follower.Stats()
	if c := d.mapConfig.Load(); c.MapWrite == "" && len(c.MapSources) == 0 && !c.MapPublic && c.MapListen == config.Off && address == nil {
		return nil
	}
	return &MapStats{d.keeper.Stats(), address, d.mapGate.Refused()}
}

// keepWarnings say what will not work, or not safely, of the kept map.
func keepWarnings(c config.Config, id identity) (w []string) {
	pinned := id.cert != nil && id.cert.SelfSigned()
	switch {
	case c.MapPublic && c.TLS && pinned:
		w = append(w, "Headscale cannot fetch /derpmap.json from the relay's port: it trusts the system's roots alone, and this certificate is pinned; "+
			"for Headscale use map_write or map_listen on its machine (sibling relays can fetch it, with pin= in their map_sources)")
	case c.MapPublic && !c.TLS:
		w = append(w, "/derpmap.json is served over plain HTTP: whoever is on the way to it can put a relay and a pin of their own into the map; "+
			"let it be fetched through the proxy that speaks TLS")
	}
	if c.MapListensBeyond() {
		w = append(w, fmt.Sprintf("map_listen %s is plain HTTP that other machines can reach: whoever is on the way can put a relay and a pin of their own into the map; "+
			"use it in a network that you trust alone", c.MapListen))
	}
	for _, s := range c.MapEntries() {
		if derpmap.Swappable(s.Place) {
			w = append(w, fmt.Sprintf("the map %s is fetched over plain HTTP: whoever is on the way can put a relay and a pin of their own into it; use https there",
				derpmap.ShownURL(s.Place)))
		}
	}
	return w
}
