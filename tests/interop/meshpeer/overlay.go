package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/weaveworks/mesh"
	"golang.org/x/sys/unix"
)

const (
	overlayControl = 7
	fastHeartbeat  = 500 * time.Millisecond
)

// overlay establishes connections by heartbeats over UDP, as the overlays that it speaks demand. It sends the
// frames that it is told to, and makes events of those that come. What it offers is written as told, so it can
// offer what it doesn't speak.
type overlay struct {
	name    mesh.PeerName
	port    int
	offered []string // nil: no such feature, which stands for sleeve with the tags it had by itself
	ciphers []string
	events  *events
	socket  *socket

	sync.Mutex
	sleeves   map[mesh.PeerName]*link // by who sends
	fastpaths map[uint32]*link        // by the index that we gave
}

// carrier is what one overlay does on a link. All is called with the link locked.
type carrier interface {
	confirmed() error
	beat() error
	control(subtag byte, body []byte) error
	datagram(octets []byte, from *net.UDPAddr) error
	attrs(map[string]interface{})
	send(source, destination mesh.PeerName, frame []byte) error
	rekey() error
}

// link is our end of the overlay of one connection.
type link struct {
	mesh.OverlayConnectionParams
	overlay     *overlay
	kind        string
	index       int  // in the list of overlays in common,
	common      int  // of so many
	alone       bool // a peer without such a list
	slow        time.Duration
	silence     time.Duration
	established chan struct{}
	failed      chan error
	stopped     chan struct{}

	sync.Mutex
	carrier carrier
	up      bool
	down    bool
	heardAt time.Time
}

func newOverlay(name mesh.PeerName, config mesh.Config, out *events) (*overlay, error) {
	o := &overlay{
		name:      name,
		port:      config.Port,
		ciphers:   []string{"clear"},
		events:    out,
		sleeves:   map[mesh.PeerName]*link{},
		fastpaths: map[uint32]*link{},
	}
	if listed, given := os.LookupEnv("MESHPEER_OVERLAYS"); given {
		o.offered = append([]string{}, strings.Fields(listed)...)
	}
	if config.Password != nil {
		o.ciphers = strings.Fields(os.Getenv("MESHPEER_CIPHERS"))
	}
	var err error
	o.socket, err = newSocket(config.Port)
	if err == nil {
		go o.receive()
	}
	return o, err
}

// AddFeaturesTo implements mesh.Overlay.
func (o *overlay) AddFeaturesTo(features map[string]string) {
	if o.offered != nil {
		features["Overlays"] = strings.Join(o.offered, " ")
	}
	if contains(o.offered, "fastpath") {
		features["Fastpath"] = "1;" + strings.Join(o.ciphers, ",") + ";1376"
	}
}

// PrepareConnection implements mesh.Overlay. The first overlay in common that we speak is used.
func (o *overlay) PrepareConnection(params mesh.OverlayConnectionParams) (mesh.OverlayConnection, error) {
	o.events.emit("features", map[string]interface{}{
		"peer": params.RemotePeer.Name.String(), "features": params.Features,
		"encrypted": params.SessionKey != nil, "uid": params.ConnUID,
	})
	listed, given := params.Features["Overlays"]
	theirs, ours := strings.Fields(listed), o.offered
	alone := !given || ours == nil
	if !given {
		theirs = []string{"sleeve"}
	}
	if ours == nil {
		ours = []string{"sleeve"}
	}
	var common []string
	for _, kind := range ours {
		if contains(theirs, kind) {
			common = append(common, kind)
		}
	}
	for index, kind := range common {
		l := &link{
			OverlayConnectionParams: params,
			overlay:                 o,
			kind:                    kind,
			index:                   index,
			common:                  len(common),
			alone:                   alone,
			established:             make(chan struct{}),
			failed:                  make(chan error, 1),
			stopped:                 make(chan struct{}),
		}
		var err error
		switch kind {
		case "sleeve":
			l.slow, l.silence = 10*time.Second, 60*time.Second
			l.carrier = newSleeve(l)
		case "fastpath":
			l.slow, l.silence = 3*time.Second, 12*time.Second
			l.carrier, err = newFastpath(l)
		default:
			continue
		}
		return l, err
	}
	return nil, errors.New("no overlays in common with peer")
}

// Diagnostics implements mesh.Overlay.
func (o *overlay) Diagnostics() interface{} { return nil }

// Stop implements mesh.Overlay.
func (o *overlay) Stop() {}

// receive passes datagrams on. A sleeve's begins with a peer name, whose first octet is even.
func (o *overlay) receive() {
	buffer := make([]byte, 65536)
	for {
		count, from, err := o.socket.ReadFromUDP(buffer)
		if err != nil {
			continue // an ICMP error of an earlier datagram
		}
		octets := append([]byte{}, buffer[:count]...)
		var to *link
		o.Lock()
		if count >= 8 && octets[0]&1 == 1 {
			to = o.fastpaths[binary.BigEndian.Uint32(octets[4:8])]
		} else if count >= 6 {
			to = o.sleeves[mesh.PeerNameFromBin(octets[:6])]
		}
		o.Unlock()
		if to != nil {
			to.do(func() error { return to.carrier.datagram(octets, from) })
		}
	}
}

// do has the link to a neighbour do something.
func (o *overlay) do(neighbour mesh.PeerName, step func(carrier) error) error {
	o.Lock()
	found := o.sleeves[neighbour]
	for _, l := range o.fastpaths {
		if l.RemotePeer.Name == neighbour {
			found = l
		}
	}
	o.Unlock()
	if found == nil {
		return errors.New("no link with that peer")
	}
	found.Lock()
	defer found.Unlock()
	return step(found.carrier)
}

// testFrame is one of a type of our own, from our name as though it were a MAC to everybody or to a name.
func testFrame(from, to mesh.PeerName, everybody bool, text string) []byte {
	frame := binary.BigEndian.AppendUint64(nil, uint64(to))[2:]
	if everybody {
		frame = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	frame = append(frame, binary.BigEndian.AppendUint64(nil, uint64(from))[2:]...)
	frame = append(append(frame, 0x88, 0xb5, byte(len(text))), text...)
	return append(frame, make([]byte, 60)...)
}

// came makes an event of a frame that arrived, if it is one of ours.
func (l *link) came(source, destination []byte, frame []byte) {
	if len(frame) < 15 || frame[12] != 0x88 || frame[13] != 0xb5 || len(frame) < 15+int(frame[14]) {
		return
	}
	l.overlay.events.emit("frame", map[string]interface{}{
		"from": mesh.PeerNameFromBin(source).String(), "to": mesh.PeerNameFromBin(destination).String(),
		"via": l.RemotePeer.Name.String(), "text": string(frame[15 : 15+int(frame[14])]), "overlay": l.kind,
	})
}

// Confirm implements mesh.OverlayConnection.
func (l *link) Confirm() {
	l.heardAt = time.Now()
	l.do(l.carrier.confirmed)
	go l.run()
}

func (l *link) run() {
	for {
		period := fastHeartbeat
		l.Lock()
		if l.up {
			period = l.slow
		}
		late := time.Since(l.heardAt) > l.silence
		l.Unlock()
		if late {
			l.do(func() error { return errors.New("timed out waiting for UDP heartbeat") })
		}
		select {
		case <-l.stopped:
			return
		case <-time.After(period):
			l.do(l.carrier.beat)
		}
	}
}

// do runs a step of the overlay; an error ends the connection.
func (l *link) do(step func() error) {
	l.Lock()
	defer l.Unlock()
	if l.down {
		return
	}
	if err := step(); err != nil {
		l.down = true
		l.failed <- err
	}
}

// touch notes a sign of life.
func (l *link) touch() { l.heardAt = time.Now() }

// establish notes that the peer receives what we send.
func (l *link) establish() {
	if !l.up {
		l.up = true
		close(l.established)
		l.overlay.events.emit("established", map[string]interface{}{
			"peer": l.RemotePeer.Name.String(), "overlay": l.kind, "outbound": l.Outbound,
		})
	}
}

func (l *link) send(subtag byte, body ...byte) error {
	if l.alone {
		return l.SendControlMessage(subtag, body)
	}
	return l.SendControlMessage(overlayControl, append([]byte{byte(l.index), subtag}, body...))
}

// ControlMessage implements mesh.OverlayConnection.
func (l *link) ControlMessage(tag byte, message []byte) {
	l.do(func() error {
		switch {
		case tag != overlayControl && l.alone:
			return l.carrier.control(tag, message)
		case tag != overlayControl || l.alone || len(message) < 2:
			return fmt.Errorf("control message with tag %d and %d octets", tag, len(message))
		case int(message[0]) >= l.common:
			return fmt.Errorf("control message for overlay %d of %d", message[0], l.common)
		case int(message[0]) != l.index:
			return nil // of an overlay that we leave alone
		}
		return l.carrier.control(message[1], message[2:])
	})
}

// EstablishedChannel implements mesh.OverlayConnection.
func (l *link) EstablishedChannel() <-chan struct{} { return l.established }

// ErrorChannel implements mesh.OverlayConnection.
func (l *link) ErrorChannel() <-chan error { return l.failed }

// Stop implements mesh.OverlayConnection.
func (l *link) Stop() {
	close(l.stopped)
	l.Lock()
	l.down = true
	l.Unlock()
	l.overlay.Lock()
	defer l.overlay.Unlock()
	for name, other := range l.overlay.sleeves {
		if other == l {
			delete(l.overlay.sleeves, name)
		}
	}
	for index, other := range l.overlay.fastpaths {
		if other == l {
			delete(l.overlay.fastpaths, index)
		}
	}
}

// Attrs implements mesh.OverlayConnection.
func (l *link) Attrs() map[string]interface{} {
	l.Lock()
	defer l.Unlock()
	found := map[string]interface{}{"name": l.kind, "uid": l.ConnUID}
	l.carrier.attrs(found)
	return found
}

// socket sends with and without permission to fragment.
type socket struct {
	*net.UDPConn
	sync.Mutex
}

func newSocket(port int) (*socket, error) {
	connection, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	return &socket{UDPConn: connection}, err
}

func (s *socket) send(octets []byte, to *net.UDPAddr, whole bool) error {
	s.Lock()
	defer s.Unlock()
	how := unix.IP_PMTUDISC_DONT
	if whole {
		how = unix.IP_PMTUDISC_DO
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	raw.Control(func(descriptor uintptr) {
		err = unix.SetsockoptInt(int(descriptor), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, how)
	})
	if err != nil {
		return err
	}
	// What the kernel can't send now is as good as lost on the way.
	_, _ = s.WriteToUDP(octets, to)
	return nil
}

func contains(list []string, wanted string) bool {
	for _, one := range list {
		if one == wanted {
			return true
		}
	}
	return false
}
