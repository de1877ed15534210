package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/weaveworks/mesh"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/hkdf"
)

// What fastpath says on the control connection.
const (
	fastpathStart    = 1
	fastpathEpoch    = 2
	fastpathEpochAck = 3
	fastpathMoved    = 4
)

// Kinds of records that are for us and not for a container.
const (
	recordPadding   = 0
	recordFrame     = 1
	recordHeartbeat = 4
	recordProbe     = 5
	recordAnswer    = 6
)

// What a record has besides, before its body.
const (
	recordPath     = 0x80
	recordChecksum = 0x40
	recordHops     = 8 // of what we send
)

const (
	fastpathVersion = 1
	fastpathHeader  = 16
	markSealed      = 0x11
	markClear       = 0x13
)

var fastpathCiphers = []string{"clear", "aes-256-gcm", "chacha20-poly1305"} // by their codes

// fastpath is weavepy's overlay, written from docs/protocol.md: START, heartbeats, new keys, answers to probes, and
// single frames. Our only lane is 0.
type fastpath struct {
	link      *link
	cipher    string
	index     uint32
	remote    *net.UDPAddr // nil: before the peer's START
	theirs    uint32
	lanes     int
	sealing   *chain
	opening   *chain
	counter   uint64
	heard     bool
	stamp     uint64
	stampedAt time.Time
	token     uint64
	probes    int
}

func newFastpath(l *link) (*fastpath, error) {
	parts := strings.Split(l.Features["Fastpath"], ";")
	if len(parts) < 3 || !contains(strings.Split(parts[0], ","), "1") {
		return nil, errors.New("no version of fastpath in common with peer")
	}
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	f := &fastpath{
		link:  l,
		index: binary.BigEndian.Uint32(random[:]) | 1, // 0 is none
		token: binary.BigEndian.Uint64(random[8:]) | 1,
	}
	theirs := strings.Split(parts[1], ",")
	for _, name := range []string{"aes-256-gcm", "chacha20-poly1305", "clear"} {
		if contains(l.overlay.ciphers, name) && contains(theirs, name) && (name == "clear") == (l.SessionKey == nil) {
			f.cipher = name
			break
		}
	}
	switch {
	case f.cipher == "":
		return nil, errors.New("no cipher in common with peer")
	case f.cipher != "clear":
		own, peer := uint64(l.overlay.name), uint64(l.RemotePeer.Name)
		f.sealing = newChain(f.cipher, l, l.Outbound, own, peer)
		f.opening = newChain(f.cipher, l, !l.Outbound, peer, own)
	}
	return f, nil
}

func (f *fastpath) confirmed() error {
	o := f.link.overlay
	o.Lock()
	o.fastpaths[f.index] = f.link
	o.Unlock()
	code := 0
	for fastpathCiphers[code] != f.cipher {
		code++
	}
	start := []byte{fastpathVersion, byte(code), 1, 0}
	start = append(binary.BigEndian.AppendUint16(start, uint16(o.port)), 0, 0)
	if err := f.link.send(fastpathStart, binary.BigEndian.AppendUint32(start, f.index)...); err != nil {
		return err
	}
	if f.cipher != "clear" {
		return nil
	}
	return f.link.send(fastpathMoved, binary.BigEndian.AppendUint64(nil, f.token)...)
}

func (f *fastpath) beat() error {
	body := make([]byte, 4)
	if f.heard {
		body[0] = 1
	}
	body = binary.BigEndian.AppendUint64(body, uint64(time.Now().UnixNano()/1000))
	echo := uint64(0)
	if f.stamp != 0 {
		echo = f.stamp + uint64(time.Since(f.stampedAt).Microseconds())
	}
	body = binary.BigEndian.AppendUint64(body, echo)
	if f.cipher == "clear" {
		body = binary.BigEndian.AppendUint64(body, f.token)
	}
	return f.packet(recordHeartbeat, body)
}

func (f *fastpath) packet(kind byte, body []byte) error {
	if f.remote == nil {
		return nil
	}
	record := append(binary.BigEndian.AppendUint16([]byte{kind, 0}, uint16(len(body))), body...)
	if kind&recordPath != 0 {
		record[1] = recordHops
	}
	header := make([]byte, fastpathHeader)
	header[0] = markClear
	binary.BigEndian.PutUint32(header[4:], f.theirs)
	binary.BigEndian.PutUint64(header[8:], f.counter)
	f.counter++
	packet := append(header, record...)
	if f.sealing != nil {
		header[0] = markSealed
		binary.BigEndian.PutUint16(header[2:], uint16(f.sealing.newest))
		packet = append(header, f.sealing.key(0, f.sealing.newest).Seal(nil, fastpathNonce(header), record, header)...)
	}
	return f.link.overlay.socket.send(packet, f.remote, true)
}

// send sends a frame of whoever it may be, to whom it may concern.
func (f *fastpath) send(source, destination mesh.PeerName, frame []byte) error {
	body := append([]byte{}, binary.BigEndian.AppendUint64(nil, uint64(source))[2:]...)
	body = append(body, binary.BigEndian.AppendUint64(nil, uint64(destination))[2:]...)
	return f.packet(recordFrame|recordPath, append(body, frame...))
}

// rekey announces our next keys, which are used as soon as the peer has acknowledged them.
func (f *fastpath) rekey() error {
	if f.sealing == nil {
		return errors.New("nothing is sealed")
	}
	return f.link.send(fastpathEpoch, binary.BigEndian.AppendUint64(nil, f.sealing.newest+1)...)
}

// came takes a frame's record apart: path and checksum may be there, or not.
func (f *fastpath) came(kind byte, body []byte) {
	source := binary.BigEndian.AppendUint64(nil, uint64(f.link.RemotePeer.Name))[2:]
	destination := binary.BigEndian.AppendUint64(nil, uint64(f.link.overlay.name))[2:]
	if kind&recordPath != 0 && len(body) >= 12 {
		source, destination, body = body[:6], body[6:12], body[12:]
	}
	if kind&recordChecksum != 0 && len(body) >= 4 {
		body = body[4:]
	}
	f.link.came(source, destination, body)
}

func fastpathNonce(header []byte) []byte {
	return append(make([]byte, 4), header[8:16]...)
}

// datagram takes one whose index is ours; what isn't authentic is dropped.
func (f *fastpath) datagram(octets []byte, from *net.UDPAddr) error {
	if f.remote == nil || len(octets) < fastpathHeader {
		return nil
	}
	header, records := octets[:fastpathHeader], octets[fastpathHeader:]
	if f.opening == nil {
		if header[0] != markClear || !from.IP.Equal(f.remote.IP) || from.Port != f.remote.Port {
			return nil
		}
	} else {
		epoch, known := f.opening.whole(binary.BigEndian.Uint16(header[2:]))
		if header[0] != markSealed || int(header[1]) >= f.lanes || !known {
			return nil
		}
		opened, err := f.opening.key(header[1], epoch).Open(nil, fastpathNonce(header), records, header)
		if err != nil {
			return nil
		}
		f.remote, records = from, opened
	}
	f.link.touch()
	for len(records) >= 4 && records[0] != recordPadding {
		length := int(binary.BigEndian.Uint16(records[2:]))
		if len(records) < 4+length {
			return fmt.Errorf("a record of %d octets in %d", length, len(records))
		}
		if err := f.record(records[0], records[4:4+length]); err != nil {
			return err
		}
		records = records[4+length:]
	}
	return nil
}

func (f *fastpath) record(kind byte, body []byte) error {
	switch {
	case kind == recordHeartbeat && len(body) >= 20:
		f.stamp, f.stampedAt = binary.BigEndian.Uint64(body[4:]), time.Now()
		first := !f.heard
		f.heard = true
		if body[0]&1 == 1 {
			f.link.establish()
		}
		if first {
			return f.beat()
		}
	case kind&0x0f == recordFrame:
		f.came(kind, body)
	case kind == recordProbe && len(body) >= 2:
		f.probes++
		return f.packet(recordAnswer, body[:2])
	}
	return nil
}

func (f *fastpath) control(subtag byte, body []byte) error {
	switch {
	case subtag == fastpathStart && len(body) >= 12:
		if f.remote != nil || body[0] != fastpathVersion || int(body[1]) >= len(fastpathCiphers) ||
			fastpathCiphers[body[1]] != f.cipher {
			return errors.New("a second START, or one that wasn't agreed")
		}
		f.lanes = int(body[2])
		f.remote = &net.UDPAddr{IP: f.link.RemoteAddr.IP, Port: int(binary.BigEndian.Uint16(body[4:]))}
		f.theirs = binary.BigEndian.Uint32(body[8:])
		return f.beat()
	case subtag == fastpathEpochAck && len(body) >= 8 && f.sealing != nil:
		if err := f.sealing.advance(binary.BigEndian.Uint64(body)); err != nil {
			return err
		}
		f.counter = 0
		return f.beat()
	case subtag == fastpathEpoch && len(body) >= 8 && f.opening != nil:
		if err := f.opening.advance(binary.BigEndian.Uint64(body)); err != nil {
			return err
		}
		return f.link.send(fastpathEpochAck, body[:8]...)
	}
	return nil
}

func (f *fastpath) attrs(found map[string]interface{}) {
	found["cipher"] = f.cipher
	found["probes"] = f.probes
	if f.sealing != nil {
		found["epoch"] = f.sealing.newest
	}
	found["remote"] = fmt.Sprint(f.remote)
}

// chain are the keys of one direction: of the newest epoch, and of the one before.
type chain struct {
	cipher string
	path   []byte
	secret []byte // of the newest epoch
	newest uint64
	keys   map[[2]uint64]cipher.AEAD // by lane and epoch
}

func newChain(name string, l *link, dialled bool, sender, receiver uint64) *chain {
	path := append([]byte(name), 0, 0)
	if dialled {
		path[len(path)-1] = 1
	}
	path = append(path, binary.BigEndian.AppendUint64(nil, sender)[2:]...)
	path = append(path, binary.BigEndian.AppendUint64(nil, receiver)[2:]...)
	root := hkdf.Extract(sha256.New, l.SessionKey[:], []byte("weavepy fastpath 1"))
	info := binary.BigEndian.AppendUint64(append([]byte("chain"), path...), l.ConnUID)
	c := &chain{cipher: name, path: path, secret: expand(root, info), keys: map[[2]uint64]cipher.AEAD{}}
	c.derive()
	return c
}

// derive makes the keys of the newest epoch for all lanes.
func (c *chain) derive() {
	for lane := 0; lane < 16; lane++ {
		info := append([]byte("key"), fastpathVersion)
		info = append(append(info, c.path...), byte(lane))
		key := expand(c.secret, binary.BigEndian.AppendUint64(info, c.newest))
		sealer, err := chacha20poly1305.New(key)
		if c.cipher == "aes-256-gcm" {
			block, _ := aes.NewCipher(key)
			sealer, err = cipher.NewGCM(block)
		}
		if err != nil {
			panic(err) // the key is 32 octets
		}
		c.keys[[2]uint64{uint64(lane), c.newest}] = sealer
	}
}

func (c *chain) advance(epoch uint64) error {
	if epoch != c.newest+1 {
		return fmt.Errorf("epoch %d announced after %d", epoch, c.newest)
	}
	c.secret = expand(c.secret, []byte("next"))
	c.newest = epoch
	c.derive()
	return nil
}

// whole returns the epoch that ends in these bits, if it is one of the last two.
func (c *chain) whole(bits uint16) (uint64, bool) {
	for _, epoch := range []uint64{c.newest, c.newest - 1} {
		if _, known := c.keys[[2]uint64{0, epoch}]; known && uint16(epoch) == bits {
			return epoch, true
		}
	}
	return 0, false
}

func (c *chain) key(lane byte, epoch uint64) cipher.AEAD {
	return c.keys[[2]uint64{uint64(lane), epoch}]
}

func expand(secret, info []byte) []byte {
	out := make([]byte, 32)
	if _, err := io.ReadFull(hkdf.Expand(sha256.New, secret, info), out); err != nil {
		panic(err) // 32 octets are never too many
	}
	return out
}
