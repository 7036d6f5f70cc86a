package peers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Meta keys of a registration.
const (
	metaNode    = "node"
	metaCluster = "cluster_id"
	metaVersion = "rabbitmq_version"
	metaVolume  = "volume" // random id of the volume that the node has its data on
	metaBoot    = "boot"   // random id of this start of the node
	metaSince   = "since"  // when that was
	metaBlank   = "blank"  // "true": it started on a blank volume and was not verified yet
	metaQueues  = "default_queue_type"
	metaRuns    = "runs"  // "true": its Erlang VM runs
	metaMade    = "entry" // random id, another one whenever the entry is made anew
)

// metaPlugin is the key under which RabbitMQ's own Consul plugin names the node (its
// source, 3.8 to 4.3).
const metaPlugin = "erlang-node-name"

// ErrUnregistered means that Consul does not know the registration (any more):
// it must be made anew, and passing earned anew.
var ErrUnregistered = errors.New("not registered in Consul")

// Registration is this node's entry in Consul's catalog: a service with a TTL
// check. It is news for others, never proof of anything.
type Registration struct {
	Service         string        // rabbitmq
	Node            string        // rabbit@host
	Address         string        // IP or host name that other nodes and clients reach
	Port            int           // AMQP
	TTL             time.Duration // of the check: silent for longer, and it is critical
	DeregisterAfter time.Duration // critical for longer, and Consul removes the entry; at least 1 min
	Version         string        // of RabbitMQ
	ClusterID       string        // once known
	Queues          string        // what this program makes of queues that name no type; "": not decided yet
	Made            string        // random id, which the catalog has once it has this entry and no earlier one; "": not said

	Labels
	Start // the check is named for its Boot, so that nobody beats for another start
}

// Labels are what else to say of a service.
type Labels struct {
	Tags   []string
	Meta   map[string]string
	Beside string // id of a service with the same agent, which this one is no fitter than; "": it is one by itself
	Places Places // where the node writes its address besides
}

// Start is one start of a node on its volume. A name is no identity: two containers may
// have one, and only this tells whose an entry is.
type Start struct {
	Volume string    // id of the volume; "": not said
	Boot   string    // id of the start; "": not said
	Since  time.Time // of Boot
	Blank  bool      // it began on a blank volume and was not verified yet: it holds no earlier cluster's data
	Runs   bool      // its Erlang VM runs: one that is started from now on is the younger
}

// metaOwn is how many keys of meta a registration has by itself, and maxMeta how
// many Consul takes (its limits, and that of their lengths, since 1.0).
const (
	metaOwn = 10
	maxMeta = 64
)

// ValidMeta returns an error when Consul would refuse a registration for what is
// to be said of the node besides, or when that would hide what it says itself.
func ValidMeta(meta map[string]string) error {
	if len(meta) > maxMeta-metaOwn {
		return fmt.Errorf("%d keys: Consul takes %d, and %d are this program's own", len(meta), maxMeta, metaOwn)
	}
	for _, k := range slices.Sorted(maps.Keys(meta)) {
		switch {
		case slices.Contains([]string{metaNode, metaCluster, metaVersion, metaVolume, metaBoot, metaSince, metaBlank, metaQueues, metaRuns, metaMade, metaPlugin}, k):
			return fmt.Errorf("key %q is this program's own", k)
		case strings.HasPrefix(k, "consul-"):
			return fmt.Errorf("key %q: Consul keeps consul-… to itself", k)
		case k == "" || len(k) > 128 || strings.Trim(k, metaLetters) != "":
			return fmt.Errorf("key %q: Consul takes up to 128 letters, digits, - and _", k)
		case len(meta[k]) > 512:
			return fmt.Errorf("value of %q: it has %d bytes, Consul takes 512", k, len(meta[k]))
		}
	}
	return nil
}

const metaLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// ID is the registration's service id, one per node: with a dash for the @, which stays where
// rabbit-a@b would be taken for rabbit@a-b.
func (r Registration) ID() string {
	name, host, _ := strings.Cut(r.Node, "@")
	if strings.Contains(name, "-") {
		return r.Service + "-" + r.Node
	}
	return r.Service + "-" + name + "-" + host
}

func (r Registration) check() string { return checkID(r.ID(), r.Boot) }

// alias is the check that Consul keeps like those of the service that this one is beside; nil where
// it is beside none. Measured on 1.8.7 and 1.22: it follows within milliseconds, with the words of
// the other, and at the agent's restart; of a service that is deregistered it says "passing". So it
// is never alone.
func (r Registration) alias() (checks api.AgentServiceChecks) {
	if r.Beside != "" {
		checks = append(checks, &api.AgentServiceCheck{
			CheckID: r.ID() + "-alias-" + r.Boot, Name: "as " + r.Beside, Status: api.HealthCritical,
			AliasService: r.Beside, DeregisterCriticalServiceAfter: r.DeregisterAfter.String(),
		})
	}
	return checks
}

// checkID is the id of the TTL check of a start's service.
func checkID(id, boot string) string {
	if boot == "" {
		return id + "-ttl"
	}
	return id + "-ttl-" + boot
}

// Announce registers the node with its check critical. An entry of the same id
// goes first: registering over it would keep its old status, passing included. A
// [NameTakenError] means that the name is another's, who may live: nothing was done.
// Standing says what the node may take from whom; one that is [Recorded] asks nobody.
func Announce(ctx context.Context, client *api.Client, r Registration, standing Standing, note string) error {
	if standing != Recorded {
		if err := NameFree(ctx, client, r, standing); err != nil {
			return err
		}
	}
	return r.placed(ctx, client, func() error { return Replace(ctx, client, r, note) })
}

// Replace does so whosever the name is: a service beside the node's own is the node's who has that.
// An entry that is too long to be read goes, too.
func Replace(ctx context.Context, client *api.Client, r Registration, note string) error {
	s, err := r.serviceAtAgent(ctx, client)
	if err != nil && !errors.Is(err, ErrTooLong) {
		return err
	}
	if err != nil || s != nil {
		if err := deregister(ctx, client, r); err != nil {
			return r.withheld(s, err)
		}
	}
	return register(ctx, client, r, note)
}

// withheld says so where the id that the agent does not let go is another service's.
func (r Registration) withheld(s *api.AgentService, err error) error {
	if s == nil || s.Service == r.Service {
		return err
	}
	if denied := (*DeniedError)(nil); errors.As(err, &denied) {
		err = &DeniedError{fmt.Sprintf("service:write on %q", s.Service), denied.Err}
	}
	return fmt.Errorf("the agent in use has %s as an entry of another service, %q: somebody who may has to remove it there, with consul services deregister -id=%s: %w", r.ID(), s.Service, r.ID(), err)
}

// Enter brings the entry of this start up to what r says, and its check keeps its
// status. Where there is none, or another start's, a node that serves is announced, as far
// as its standing goes.
func Enter(ctx context.Context, client *api.Client, r Registration, standing func() Standing, note string) error {
	err := Update(ctx, client, r, note)
	if errors.Is(err, ErrUnregistered) || errors.Is(err, ErrTooLong) {
		return Announce(ctx, client, r, standing(), note)
	}
	if err == nil { // what Consul lost with the rest is written again
		err = r.tellPlace(ctx, client)
	}
	return err
}

// Update does the same where there is an entry of this start; otherwise [ErrUnregistered].
func Update(ctx context.Context, client *api.Client, r Registration, note string) error {
	p, err := atAgent(ctx, client, r)
	if err != nil {
		return err
	}
	if p == nil || p.Boot != r.Boot { // whose check would stay beside ours
		return fmt.Errorf("%s of this start: %w", r.ID(), ErrUnregistered)
	}
	return register(ctx, client, r, note)
}

func register(ctx context.Context, client *api.Client, r Registration, note string) error {
	meta := map[string]string{
		metaNode: r.Node, metaCluster: r.ClusterID, metaVersion: r.Version,
		metaVolume: r.Volume, metaBoot: r.Boot, metaSince: r.Since.UTC().Format(time.RFC3339), metaBlank: strconv.FormatBool(r.Blank), metaQueues: r.Queues, metaRuns: strconv.FormatBool(r.Runs), metaMade: r.Made,
	}
	maps.Copy(meta, r.Meta)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := client.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID: r.ID(), Name: r.Service, Address: r.Address, Port: r.Port, Tags: r.Tags, Meta: meta,
		Check: &api.AgentServiceCheck{
			CheckID: r.check(), Name: "RabbitMQ " + r.Node, Status: api.HealthCritical, Notes: note,
			TTL: r.TTL.String(), DeregisterCriticalServiceAfter: r.DeregisterAfter.String(),
		},
		Checks: r.alias(),
	}, api.ServiceRegisterOpts{}.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("register %s in Consul: %w", r.ID(), lacks(err, fmt.Sprintf("service:write on %q", r.Service)))
	}
	return nil
}

// Report sets the check to api.HealthPassing, HealthWarning or HealthCritical
// with one line of reason, and restarts its TTL. [ErrUnregistered] means that the
// agent has no such check.
func Report(ctx context.Context, client *api.Client, r Registration, status, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := new(api.QueryOptions).WithContext(ctx)
	err := client.Agent().UpdateTTLOpts(r.check(), reason, status, q)
	if unknown(err) {
		return fmt.Errorf("check %s: %w", r.check(), ErrUnregistered)
	}
	if err != nil {
		return fmt.Errorf("update check %s: %w", r.check(), lacks(err, fmt.Sprintf("service:write on %q", r.Service)))
	}
	return nil
}

// Held returns [ErrUnregistered] unless what the agent in use has is this entry: whoever registers
// another one over it leaves it the check, so that [Report] hears of nothing.
func Held(ctx context.Context, client *api.Client, r Registration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := r.serviceAtAgent(ctx, client)
	switch {
	case err != nil:
		return err
	case s == nil, s.Meta[metaBoot] != r.Boot, r.Made != "" && s.Meta[metaMade] != r.Made:
		return fmt.Errorf("%s as this start made it: %w", r.ID(), ErrUnregistered)
	}
	return nil
}

// Altered returns the ids of those registrations that the agent in use does not have, or not as
// they say: whoever registers over an entry leaves it the check, so that [Report] hears of nothing.
func Altered(ctx context.Context, client *api.Client, all ...Registration) (ids []string, err error) {
	var filter []string
	for _, r := range all {
		filter = append(filter, fmt.Sprintf("ID == %q", r.ID()))
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	services, err := client.Agent().ServicesWithFilterOpts(strings.Join(filter, " or "), new(api.QueryOptions).WithContext(ctx))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read services from the Consul agent: %w", err)
	case services == nil:
		return nil, fmt.Errorf("read services from the Consul agent: %w", errHollow)
	}
	for _, r := range all {
		if s := services[r.ID()]; s == nil || s.Service != r.Service || s.Meta[metaBoot] != r.Boot || s.Address != r.Address || s.Port != r.Port || !slices.Equal(s.Tags, r.Tags) {
			ids = append(ids, r.ID())
		}
	}
	return ids, nil
}

// Withdraw removes the registration; one that is not there is no error, and another
// start's under the same name stays.
func Withdraw(ctx context.Context, client *api.Client, r Registration) error {
	switch p, err := atAgent(ctx, client, r); {
	case err != nil:
		return err
	case p == nil, p.Boot != r.Boot:
		return nil
	}
	return deregister(ctx, client, r)
}

// deregister removes the entry of the registration's id, whosever it is.
func deregister(ctx context.Context, client *api.Client, r Registration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := new(api.QueryOptions).WithContext(ctx)
	if err := client.Agent().ServiceDeregisterOpts(r.ID(), q); err != nil && !unknown(err) {
		return fmt.Errorf("deregister %s from Consul: %w", r.ID(), lacks(err, fmt.Sprintf("service:write on %q", r.Service)))
	}
	return nil
}

// Reregister registers what the agent has of this start over itself, as it is: the agent
// tells the catalog with the token of the registration. One that is not there, or is another
// start's, is left alone.
func Reregister(ctx context.Context, client *api.Client, r Registration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := new(api.QueryOptions).WithContext(ctx)
	services, err := client.Agent().ServicesWithFilterOpts(fmt.Sprintf("ID == %q", r.ID()), q)
	s := services[r.ID()]
	if err != nil || s == nil || s.Meta[metaBoot] != r.Boot {
		return err
	}
	checks, err := client.Agent().ChecksWithFilterOpts(fmt.Sprintf("ServiceID == %q", r.ID()), q)
	c := checks[r.check()]
	if err != nil || c == nil {
		return err
	}
	err = client.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID: s.ID, Name: s.Service, Address: s.Address, Port: s.Port, Tags: s.Tags, Meta: s.Meta,
		Check: &api.AgentServiceCheck{
			CheckID: c.CheckID, Name: c.Name, Status: c.Status, Notes: c.Notes,
			TTL: r.TTL.String(), DeregisterCriticalServiceAfter: r.DeregisterAfter.String(),
		},
		Checks: r.alias(),
	}, api.ServiceRegisterOpts{}.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("register %s in Consul over itself: %w", r.ID(), lacks(err, fmt.Sprintf("service:write on %q", r.Service)))
	}
	return nil
}

// unknown tells "no such check or service" from other errors: a 404, and before
// Consul 1.11 a 500 that says so in words.
func unknown(err error) bool {
	var status api.StatusError
	if !errors.As(err, &status) {
		return false
	}
	return status.Code == 404 || status.Code == 500 && (strings.Contains(status.Body, "does not have associated TTL") || strings.Contains(status.Body, "nknown check") || strings.Contains(status.Body, "nknown service"))
}
