package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"

	"github.com/weaveworks/mesh"
	"golang.org/x/crypto/nacl/secretbox"
)

// What sleeve says on the control connection.
const (
	sleeveAck       = 1
	sleeveFragments = 2
	sleeveMTU       = 3
)

const (
	ethernetHeader = 14
	fragmentTest   = 60001
	sequenceDF     = 1 << 63
)

// sleeve is Weave Net's own overlay: heartbeats, and the tests of fragments and of the path's MTU.
type sleeve struct {
	link      *link
	remote    *net.UDPAddr // nil: not known before the dialler's first heartbeat
	heard     bool
	sent      [2]uint64 // sequence numbers: fragments allowed, and not
	seen      map[uint64]bool
	fragments bool
	mtu       int // that was shown to arrive
}

func newSleeve(l *link) *sleeve {
	s := &sleeve{link: l, seen: map[uint64]bool{}}
	if l.Outbound {
		s.remote = &net.UDPAddr{IP: l.RemoteAddr.IP, Port: l.RemoteAddr.Port}
	}
	return s
}

func (s *sleeve) confirmed() error {
	o := s.link.overlay
	o.Lock()
	o.sleeves[s.link.RemotePeer.Name] = s.link
	o.Unlock()
	return s.beat()
}

func (s *sleeve) beat() error {
	heartbeat := make([]byte, ethernetHeader+8)
	binary.BigEndian.PutUint64(heartbeat[ethernetHeader:], s.link.ConnUID)
	if err := s.packet(heartbeat, true); err != nil || !s.link.up {
		return err
	}
	return s.test()
}

// test asks whether fragments and full packets arrive, until both were answered.
func (s *sleeve) test() error {
	if !s.fragments {
		if err := s.packet(make([]byte, fragmentTest), false); err != nil {
			return err
		}
	}
	if s.mtu == 0 {
		return s.packet(make([]byte, s.candidate()+ethernetHeader), true)
	}
	return nil
}

// candidate is what fits 1500 octets: IP, UDP, the packet's header, a frame's names and length, its Ethernet
// header.
func (s *sleeve) candidate() int {
	header := 6
	if s.link.SessionKey != nil {
		header += 8 + secretbox.Overhead
	}
	return 1500 - 28 - header - 14 - ethernetHeader
}

func (s *sleeve) packet(frame []byte, whole bool) error {
	return s.frames(s.link.overlay.name, s.link.RemotePeer.Name, frame, whole)
}

// send sends a frame of whoever it may be, to whom it may concern.
func (s *sleeve) send(source, destination mesh.PeerName, frame []byte) error {
	return s.frames(source, destination, frame, false)
}

func (s *sleeve) rekey() error { return errors.New("sleeve has one key for all its life") }

func (s *sleeve) frames(source, destination mesh.PeerName, frame []byte, whole bool) error {
	if s.remote == nil {
		return nil
	}
	own := binary.BigEndian.AppendUint64(nil, uint64(s.link.overlay.name))[2:]
	body := append([]byte{}, binary.BigEndian.AppendUint64(nil, uint64(source))[2:]...)
	body = append(body, binary.BigEndian.AppendUint64(nil, uint64(destination))[2:]...)
	body = append(binary.BigEndian.AppendUint16(body, uint16(len(frame))), frame...)
	packet := own
	if key := s.link.SessionKey; key == nil {
		packet = append(packet, body...)
	} else {
		class, flag := 0, uint64(0)
		if whole {
			class, flag = 1, sequenceDF
		}
		sequence := s.sent[class] | flag
		s.sent[class]++
		packet = binary.BigEndian.AppendUint64(packet, sequence)
		packet = secretbox.Seal(packet, body, sleeveNonce(sequence, s.link.Outbound), key)
	}
	return s.link.overlay.socket.send(packet, s.remote, whole)
}

func sleeveNonce(sequence uint64, dialled bool) *[24]byte {
	var nonce [24]byte
	if dialled {
		nonce[0] = 0x80
	}
	binary.BigEndian.PutUint64(nonce[16:], sequence)
	return &nonce
}

// datagram takes one whose name said that it is ours; what can't be read is nobody's fault.
func (s *sleeve) datagram(octets []byte, from *net.UDPAddr) error {
	body := octets[6:]
	if key := s.link.SessionKey; key != nil {
		if len(body) < 8 {
			return nil
		}
		sequence := binary.BigEndian.Uint64(body)
		opened, authentic := secretbox.Open(nil, body[8:], sleeveNonce(sequence, !s.link.Outbound), key)
		if !authentic || s.seen[sequence] {
			return nil
		}
		s.seen[sequence] = true
		body = opened
	}
	own := binary.BigEndian.AppendUint64(nil, uint64(s.link.overlay.name))[2:]
	for len(body) >= 14 {
		length := int(binary.BigEndian.Uint16(body[12:]))
		if len(body) < 14+length {
			return nil
		}
		special := bytes.Equal(body[:6], octets[:6]) && bytes.Equal(body[6:12], own)
		if frame := body[14 : 14+length]; !bytes.HasPrefix(frame, make([]byte, ethernetHeader)) {
			s.link.came(body[:6], body[6:12], frame)
		} else if err := s.frame(frame, special, from); err != nil {
			return err
		}
		body = body[14+length:]
	}
	return nil
}

func (s *sleeve) frame(frame []byte, special bool, from *net.UDPAddr) error {
	if !special {
		return nil
	}
	switch len(frame) {
	case ethernetHeader + 8:
		if binary.BigEndian.Uint64(frame[ethernetHeader:]) != s.link.ConnUID {
			return nil
		}
		return s.heartbeat(from)
	case fragmentTest:
		return s.link.send(sleeveFragments)
	default:
		return s.link.send(sleeveMTU, binary.BigEndian.AppendUint16(nil, uint16(len(frame)-ethernetHeader))...)
	}
}

func (s *sleeve) heartbeat(from *net.UDPAddr) error {
	s.link.touch()
	first := s.remote == nil
	s.remote = from
	if first {
		if err := s.beat(); err != nil {
			return err
		}
	}
	if s.heard {
		return nil
	}
	s.heard = true
	return s.link.send(sleeveAck)
}

func (s *sleeve) control(subtag byte, body []byte) error {
	switch {
	case subtag == sleeveAck:
		s.link.establish()
		return s.test()
	case subtag == sleeveFragments:
		s.fragments = true
	case subtag == sleeveMTU && len(body) >= 2:
		if verified := int(binary.BigEndian.Uint16(body)); verified == s.candidate() {
			s.mtu = verified
		}
	}
	return nil
}

func (s *sleeve) attrs(found map[string]interface{}) {
	found["mtu"] = s.mtu
	found["fragments"] = s.fragments
}
