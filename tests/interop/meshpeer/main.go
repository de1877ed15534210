// Meshpeer is a control plane peer made of the original gossip library, for tests.
//
// Settings come from the environment, so that a password is in nobody's argument list. Commands are JSON lines
// on standard input, events JSON lines on standard output. It ends when its input does, so it can't outlive
// the test that started it.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/weaveworks/mesh"
)

// events writes one JSON object a line.
type events struct {
	sync.Mutex
	encoder *json.Encoder
}

func (e *events) emit(kind string, fields map[string]interface{}) {
	e.Lock()
	defer e.Unlock()
	line := map[string]interface{}{"event": kind}
	for key, value := range fields {
		line[key] = value
	}
	if err := e.encoder.Encode(line); err != nil {
		os.Exit(1) // nobody reads us any more
	}
}

// Printf makes events of what the library logs.
func (e *events) Printf(format string, args ...interface{}) {
	e.emit("log", map[string]interface{}{"text": fmt.Sprintf(format, args...)})
}

// command is a line of standard input. What it comes to is the event "done" with its id.
type command struct {
	ID      int      `json:"id"`
	Do      string   `json:"do"`
	Peers   []string `json:"peers"`
	Channel string   `json:"channel"`
	To      string   `json:"to"`
	Text    string   `json:"text"`
}

type peer struct {
	router   *mesh.Router
	overlay  *overlay
	events   *events
	channels map[string]*channel
}

func main() {
	out := &events{encoder: json.NewEncoder(os.Stdout)}
	p, err := start(out)
	if err != nil {
		log.Fatal(err)
	}
	out.emit("ready", map[string]interface{}{"name": p.router.Ourself.Name.String()})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			log.Fatal(err)
		}
		if c.Do == "quit" {
			break
		}
		answer, err := p.run(c)
		done := map[string]interface{}{"id": c.ID, "answer": answer}
		if err != nil {
			done["error"] = err.Error()
		}
		out.emit("done", done)
	}
	p.router.Stop()
}

func start(out *events) (*peer, error) {
	name, err := mesh.PeerNameFromString(os.Getenv("MESHPEER_NAME"))
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(os.Getenv("MESHPEER_PORT"))
	if err != nil {
		return nil, err
	}
	config := mesh.Config{
		Host:               "0.0.0.0",
		Port:               port,
		ProtocolMinVersion: mesh.ProtocolMinVersion,
		PeerDiscovery:      os.Getenv("MESHPEER_DISCOVERY") != "",
	}
	if password := os.Getenv("MESHPEER_PASSWORD"); password != "" {
		config.Password = []byte(password) // the library takes an empty one for a password, too
	}
	lay, err := newOverlay(name, config, out)
	if err != nil {
		return nil, err
	}
	router, err := mesh.NewRouter(config, name, os.Getenv("MESHPEER_NICKNAME"), lay, out)
	if err != nil {
		return nil, err
	}
	p := &peer{router: router, overlay: lay, events: out, channels: map[string]*channel{}}
	for _, name := range strings.Fields(os.Getenv("MESHPEER_CHANNELS")) {
		c := &channel{name: name, events: out, known: map[string]bool{}}
		if c.gossip, err = router.NewGossip(name, c); err != nil {
			return nil, err
		}
		p.channels[name] = c
	}
	router.Start()
	router.ConnectionMaker.InitiateConnections(strings.Fields(os.Getenv("MESHPEER_PEERS")), false)
	return p, nil
}

// drive has a link do something: its neighbour is the first of the command's peers.
func (p *peer) drive(c command) error {
	if len(c.Peers) != 1 {
		return fmt.Errorf("%q needs one neighbour", c.Do)
	}
	via, err := mesh.PeerNameFromString(c.Peers[0])
	if err != nil {
		return err
	}
	if c.Do == "rekey" {
		return p.overlay.do(via, func(k carrier) error { return k.rekey() })
	}
	to, err := mesh.PeerNameFromString(c.To)
	if err != nil {
		return err
	}
	frame := testFrame(p.overlay.name, to, to == via, c.Text)
	return p.overlay.do(via, func(k carrier) error { return k.send(p.overlay.name, to, frame) })
}

func (p *peer) run(c command) (interface{}, error) {
	switch c.Do {
	case "connect":
		for _, err := range p.router.ConnectionMaker.InitiateConnections(c.Peers, false) {
			return nil, err
		}
		return nil, nil
	case "forget":
		p.router.ConnectionMaker.ForgetConnections(c.Peers)
		return nil, nil
	case "frame", "rekey":
		return nil, p.drive(c)
	case "status":
		return mesh.NewStatus(p.router), nil
	}
	ch, known := p.channels[c.Channel]
	if !known {
		return nil, fmt.Errorf("%q needs a channel of ours", c.Do)
	}
	switch c.Do {
	case "unicast":
		to, err := mesh.PeerNameFromString(c.To)
		if err != nil {
			return nil, err
		}
		return nil, ch.gossip.GossipUnicast(to, []byte(c.Text))
	case "broadcast":
		ch.gossip.GossipBroadcast(texts{c.Text})
		return nil, nil
	case "gossip":
		ch.tell(c.Text)
		return nil, nil
	}
	return nil, fmt.Errorf("unknown command %q", c.Do)
}
