package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/consul/api"
)

// A Place is where a node with --hosts consul is, by its own word: one permanent key a node. Writing
// it takes key:write, as the record does. Whoever may only register a service can copy a node's
// entry in the catalog, and has nobody look for the node elsewhere by that.
type Place struct {
	Address string `json:"address"` // IP
	Volume  string `json:"volume"`  // that the node has its data on: another container may have its name
}

// Places are the keys of all nodes of a service; without a prefix this node writes none.
type Places struct {
	Prefix string
	Record string      // key of the cluster record: keys of nodes that are not on it are removed
	Denied func(error) // hears that the token may not write there: the node is registered all the same
}

// Bounds of places: of one, and of how many are removed at a time, which Consul takes in one
// transaction (64 operations, since 1.0).
const (
	mostPlace = 1 << 10 // bytes
	mostSwept = 60
)

// Reader returns what tells where a node says that it is: nil where it never did. An error means
// unknown: what is there cannot be read, or nobody of this program wrote it. All that it is asked
// has the time of one call, so that a Consul that hangs costs no more.
func (p Places) Reader(ctx context.Context, client *api.Client) func(node string) (*Place, error) {
	until := time.Now().Add(callTimeout)
	return func(node string) (*Place, error) {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		key := p.Prefix + node
		pair, _, err := readKey(client, key, consistent(ctx))
		if err != nil {
			return nil, fmt.Errorf("read the address of %s at %s: %w", node, key, lacks(err, fmt.Sprintf("key:read on %q", key)))
		}
		if pair == nil {
			return nil, nil
		}
		var place Place
		if len(pair.Value) > mostPlace {
			err = fmt.Errorf("it has %d bytes", len(pair.Value))
		} else if err = json.Unmarshal(pair.Value, &place); err == nil {
			err = place.plausible()
		}
		if err != nil {
			return nil, fmt.Errorf("%s holds %.60q, which no program of this kind wrote (%s): delete it, and %s writes it when it is registered next", key, pair.Value, Plain(err.Error()), node)
		}
		return &place, nil
	}
}

func (p Place) plausible() error {
	if net.ParseIP(p.Address) == nil {
		return fmt.Errorf("its address %.60q is no IP address", p.Address)
	}
	if len(p.Volume) > mostChars || strings.ContainsFunc(p.Volume, unicode.IsControl) {
		return errors.New("its volume is no id")
	}
	return nil
}

// placed registers the node and writes where it is: that first, for whoever sees the entry goes by
// it. Where the address is the agent's own, only an entry there tells which one that is.
func (r Registration) placed(ctx context.Context, client *api.Client, register func() error) error {
	if r.Address == "" {
		if err := register(); err != nil {
			return err
		}
		return r.tellPlace(ctx, client)
	}
	if err := r.tellPlace(ctx, client); err != nil {
		return err
	}
	return register()
}

// tellPlace writes where the node is, unless that is written. It is for a node that has its name.
func (r Registration) tellPlace(ctx context.Context, client *api.Client) error {
	if r.Places.Prefix == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := r.Places.Prefix + r.Node
	first, err := r.writePlace(ctx, client, key)
	if err = lacks(err, fmt.Sprintf("key:write on %q", key)); err != nil {
		err = fmt.Errorf("write this node's address to %s: %w", key, err)
	}
	if errors.As(err, new(*DeniedError)) {
		if r.Places.Denied != nil {
			r.Places.Denied(err)
		}
		return nil
	}
	if first { // another name: with one for each container, keys would be ever more
		_ = r.Places.sweep(ctx, client)
	}
	return err
}

func (r Registration) writePlace(ctx context.Context, client *api.Client, key string) (first bool, err error) {
	place := Place{r.Address, r.Volume}
	if place.Address == "" {
		if place.Address, err = r.agentsAddress(ctx, client); err != nil {
			return false, err
		}
	}
	if err := place.plausible(); err != nil {
		return false, err
	}
	value, err := json.Marshal(place)
	if err != nil {
		return false, err
	}
	pair, _, err := readKey(client, key, consistent(ctx))
	if err != nil || pair != nil && bytes.Equal(pair.Value, value) {
		return false, err
	}
	ok, _, err := client.KV().CAS(&api.KVPair{Key: key, Value: value, ModifyIndex: modified(pair)}, new(api.WriteOptions).WithContext(ctx))
	if err == nil && !ok {
		err = errors.New("it changed meanwhile: another container may have this node's name")
	}
	return err == nil && pair == nil, err
}

// agentsAddress returns the address of the agent that holds the node's entry.
func (r Registration) agentsAddress(ctx context.Context, client *api.Client) (string, error) {
	checks, err := client.Agent().ChecksWithFilterOpts(fmt.Sprintf("CheckID == %q", r.check()), new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return "", err
	}
	c := checks[r.check()]
	if c == nil {
		return "", fmt.Errorf("check %s: %w", r.check(), ErrUnregistered)
	}
	node, _, err := client.Catalog().Node(c.Node, consistent(ctx))
	if err != nil {
		return "", err
	}
	if node == nil || node.Node == nil {
		return "", fmt.Errorf("the catalog has no Consul node %s yet", short(c.Node))
	}
	return node.Node.Address, nil
}

// sweep removes keys of nodes that are not on record: as long as the record is the one that was
// read, and none that was written since, for a node writes its key before it goes on record.
func (p Places) sweep(ctx context.Context, client *api.Client) error {
	record, index, err := ReadRecord(ctx, client, p.Record)
	if err != nil || record.State != Formed {
		return err
	}
	pairs, _, err := client.KV().List(p.Prefix, consistent(ctx))
	if err != nil {
		return err
	}
	ops := api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: p.Record, Index: index}}}
	for _, pair := range pairs {
		if pair == nil || pair.ModifyIndex > index || len(ops) > mostSwept {
			continue
		}
		if _, on := record.Members[strings.TrimPrefix(pair.Key, p.Prefix)]; !on {
			ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVDeleteCAS, Key: pair.Key, Index: pair.ModifyIndex}})
		}
	}
	if len(ops) == 1 {
		return nil
	}
	_, _, _, err = client.Txn().Txn(ops, consistent(ctx))
	return err
}
