package main

import (
	"sync"

	"github.com/weaveworks/mesh"
)

// texts are what a channel carries: one text a message, merged by concatenation.
type texts []string

// Encode implements mesh.GossipData.
func (t texts) Encode() [][]byte {
	var messages [][]byte
	for _, text := range t {
		messages = append(messages, []byte(text))
	}
	return messages
}

// Merge implements mesh.GossipData.
func (t texts) Merge(other mesh.GossipData) mesh.GossipData {
	return append(append(texts{}, t...), other.(texts)...)
}

// channel makes an event of everything it hears. Its state are the texts that it was told to gossip: what it
// has learnt from others it passes on once, so that a test knows where a text comes from.
type channel struct {
	name   string
	events *events
	gossip mesh.Gossip

	sync.Mutex
	state texts
	known map[string]bool
}

func (c *channel) heard(how string, from string, message []byte) {
	c.events.emit("heard", map[string]interface{}{
		"channel": c.name, "how": how, "from": from, "text": string(message),
	})
}

// learn tells whether text is new.
func (c *channel) learn(text string) bool {
	c.Lock()
	defer c.Unlock()
	if c.known[text] {
		return false
	}
	c.known[text] = true
	return true
}

// tell adds to the state and sends what is new the way that the periodic gossip goes.
func (c *channel) tell(text string) {
	if c.learn(text) {
		c.Lock()
		c.state = append(c.state, text)
		c.Unlock()
	}
	c.gossip.(interface{ Send(mesh.GossipData) }).Send(texts{text})
}

// OnGossipUnicast implements mesh.Gossiper.
func (c *channel) OnGossipUnicast(src mesh.PeerName, message []byte) error {
	c.heard("unicast", src.String(), message)
	return nil
}

// OnGossipBroadcast implements mesh.Gossiper.
func (c *channel) OnGossipBroadcast(src mesh.PeerName, message []byte) (mesh.GossipData, error) {
	c.heard("broadcast", src.String(), message)
	return texts{string(message)}, nil
}

// Gossip implements mesh.Gossiper.
func (c *channel) Gossip() mesh.GossipData {
	c.Lock()
	defer c.Unlock()
	if len(c.state) == 0 {
		return nil
	}
	return append(texts{}, c.state...)
}

// OnGossip implements mesh.Gossiper. The library doesn't say by whom it came.
func (c *channel) OnGossip(message []byte) (mesh.GossipData, error) {
	c.heard("gossip", "", message)
	if !c.learn(string(message)) {
		return nil, nil
	}
	return texts{string(message)}, nil
}
