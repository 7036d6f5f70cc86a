package peers_test

import (
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
)

// A query for news returns with the change, by a server and by an agent in front of it, and says the
// same of what did not change as the leader does.
func TestNews(t *testing.T) {
	t.Parallel()
	servers := consultest.StartCluster(t, 1)
	for name, consul := range map[string]*consultest.Consul{"a server": servers[0], "an agent": consultest.StartAgent(t, servers)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := consul.Client
			node := boot("v1", "b1")
			node.Service = "news-" + consul.Node
			mustAnnounce(t, client, node)
			mustReport(t, client, node, api.HealthPassing)
			all, index := settled(t, client, node.Service)
			type answer struct {
				all  []peers.Peer
				next uint64
				err  error
			}
			said := make(chan answer, 1)
			ask := func(index uint64) {
				all, next, err := peers.CatalogNews(t.Context(), client, node.Service, index)
				said <- answer{all, next, err}
			}
			if ask(index - 1); true { // one that is behind gets what is there
				a := <-said
				if a.err != nil || a.next < index || !peers.SameEntries(a.all, all) {
					t.Fatalf("%v, %+v at %d; the leader says %+v at %d", a.err, a.all, a.next, all, index)
				}
			}
			go ask(index)
			select {
			case a := <-said:
				t.Fatalf("it came back with no change: %+v", a)
			case <-time.After(time.Second):
			}
			mustReport(t, client, node, api.HealthCritical)
			if a := <-said; a.err != nil || a.next <= index || peers.SameEntries(a.all, all) {
				t.Errorf("after a change: %+v", a)
			}

			key := node.Service + "/cluster"
			if ok, err := peers.WriteRecord(t.Context(), client, key, peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{b: "v1"}}, 0, "", ""); err != nil || !ok {
				t.Fatal(ok, err)
			}
			_, at, err := peers.ReadRecord(t.Context(), client, key)
			if err != nil {
				t.Fatal(err)
			}
			news := make(chan uint64, 1)
			go func() {
				now, next, err := peers.RecordNews(t.Context(), client, key, at)
				if err != nil || next < at {
					t.Errorf("the record: %d, %d, %v", now, next, err)
				}
				news <- now
			}()
			if ok, err := peers.WriteRecord(t.Context(), client, key, peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{b: "v1"}}, at, "", ""); err != nil || !ok {
				t.Fatal(ok, err)
			}
			if now := <-news; now <= at {
				t.Errorf("the record is at %d, was at %d", now, at)
			}
			if _, err := client.KV().Delete(key, nil); err != nil {
				t.Fatal(err)
			}
			if now, _, err := peers.RecordNews(t.Context(), client, key, at+1); err != nil || now != 0 {
				t.Errorf("there is no record any more: %d, %v", now, err)
			}
		})
	}
}

// settled waits until the service passes, and returns what the leader says then.
func settled(t *testing.T, client *api.Client, service string) ([]peers.Peer, uint64) {
	t.Helper()
	for {
		all, index, err := peers.Entries(t.Context(), client, service)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 1 && all[0].Passing {
			return all, index
		}
		time.Sleep(10 * time.Millisecond)
	}
}
