package consultest

import (
	"testing"

	"github.com/hashicorp/consul/api"
)

func TestRestartKeepsWhatIsPersistent(t *testing.T) {
	for name, opts := range map[string][]Option{"persistent": {Persistent()}, "in memory": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Start(t, opts...)
			if _, err := c.Client.KV().Put(&api.KVPair{Key: "k"}, nil); err != nil {
				t.Fatal(err)
			}
			c.Restart()
			kv, _, err := c.Client.KV().Get("k", nil)
			if err != nil || (kv != nil) != (len(opts) > 0) {
				t.Errorf("after the restart: %v, %v", kv, err)
			}
		})
	}
}

func TestClusterOutlivesOneServer(t *testing.T) {
	t.Parallel()
	servers := StartCluster(t, 3)
	servers[0].Kill()
	servers[1].WaitReady()
	if _, err := servers[2].Client.KV().Put(&api.KVPair{Key: "k"}, nil); err != nil {
		t.Fatal(err)
	}
	servers[0].Restart()
	if kv, _, err := servers[0].Client.KV().Get("k", nil); err != nil || kv == nil {
		t.Errorf("the server that was away has %v, %v", kv, err)
	}
}

func TestACLDeniesByDefault(t *testing.T) {
	t.Parallel()
	c := Start(t, ACL())
	if _, err := Client(t, c.Addr, "").KV().Put(&api.KVPair{Key: "k"}, nil); err == nil {
		t.Error("an anonymous client may write")
	}
	if _, err := c.ClientFor(`key "k" { policy = "write" }`).KV().Put(&api.KVPair{Key: "k"}, nil); err != nil {
		t.Error(err)
	}
}
