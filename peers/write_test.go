package peers_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

func TestRecordIsWrittenByCompareAndSet(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	if r, index, err := peers.ReadRecord(t.Context(), consul.Client, recordKey); err != nil || index != 0 || r.State != peers.Absent {
		t.Fatalf("before anything is written: %+v, %d, %v", r, index, err)
	}
	first := peers.Record{}.Claimed(a, "vol-a", "", now)
	mustWrite(t, consul.Client, first, 0, true)
	mustWrite(t, consul.Client, peers.Record{}.Claimed(b, "vol-b", "", now), 0, false) // index 0 means: there is none
	r, index := mustRead(t, consul.Client)
	if r.Seed != a || r.Claim != first.Claim || r.State != peers.Forming || r.Members[a] != "vol-a" || !r.Since.Equal(now) || r.Revision == "" {
		t.Errorf("read back %+v", r)
	}
	mustWrite(t, consul.Client, r.Founded("id-1", now), index, true)
	mustWrite(t, consul.Client, r.With(b, "vol-b"), index, false) // of before the founding
	r, after := mustRead(t, consul.Client)
	if r.State != peers.Formed || r.ClusterID != "id-1" || r.Session != "" || after <= index {
		t.Errorf("read back %+v at %d, after %d", r, after, index)
	}
}

func TestOneOfManyClaimsWins(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	for round := range 5 {
		var won atomic.Int32
		var wg sync.WaitGroup
		_, index, err := peers.ReadRecord(t.Context(), consul.Client, recordKey)
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range []string{a, b, c} {
			wg.Go(func() {
				ok, err := peers.WriteRecord(t.Context(), consul.Client, recordKey, peers.Record{}.Claimed(node, "v", "", now), index, "", "")
				if err != nil {
					t.Error(err)
				}
				if ok {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("round %d: %d claims at index %d succeeded", round, won.Load(), index)
		}
	}
}

func TestWriteUnderALockThatIsLost(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	session := func() string {
		id, _, err := consul.Client.Session().CreateNoChecks(&api.SessionEntry{TTL: "10s", LockDelay: time.Millisecond}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	mine := session()
	write := func() bool {
		t.Helper()
		_, index, err := peers.ReadRecord(t.Context(), consul.Client, recordKey)
		if err != nil {
			t.Fatal(err)
		}
		ok, err := peers.WriteRecord(t.Context(), consul.Client, recordKey, peers.Record{}.Claimed(a, "v", mine, now), index, lockKey, mine)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if write() {
		t.Error("wrote without holding the lock")
	}
	if ok, _, err := consul.Client.KV().Acquire(&api.KVPair{Key: lockKey, Session: mine}, nil); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if !write() {
		t.Error("could not write while holding the lock")
	}
	if _, err := consul.Client.Session().Destroy(mine, nil); err != nil {
		t.Fatal(err)
	}
	if write() {
		t.Error("wrote although the session was gone")
	}
	other := session()
	eventually(t, "another takes the lock", func() bool {
		ok, _, err := consul.Client.KV().Acquire(&api.KVPair{Key: lockKey, Session: other}, nil)
		return err == nil && ok
	})
	if write() {
		t.Error("wrote while another held the lock")
	}
}

func TestAnswerOfAWriteIsLost(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	link := consultest.Proxy(t, consul.Addr)
	client := consultest.Client(t, link.Addr, "")
	claim := peers.Record{}.Claimed(a, "v", "", now)

	link.LoseAnswer(1, transactions)
	if ok, err := peers.WriteRecord(t.Context(), client, recordKey, claim, 0, "", ""); err != nil || !ok {
		t.Errorf("the write took place and its answer was lost: got %t, %v", ok, err)
	}
	r, index := mustRead(t, consul.Client)
	if r.Claim != claim.Claim {
		t.Errorf("on record: %+v", r)
	}

	link.Answer(1, 500, "rpc error: No cluster leader", transactions)
	if ok, err := peers.WriteRecord(t.Context(), client, recordKey, r.Founded("id", now), index, "", ""); ok || err == nil || !strings.Contains(err.Error(), "No cluster leader") {
		t.Errorf("the write did not take place: got %t, %v", ok, err)
	}

	link.LoseAnswer(1, transactions)
	link.Answer(1, 500, "rpc error: No cluster leader", reads)
	if ok, err := peers.WriteRecord(t.Context(), client, recordKey, r.Founded("id", now), index, "", ""); ok || err == nil || !strings.Contains(err.Error(), "could not be read again") {
		t.Errorf("nothing tells what became of the write: got %t, %v", ok, err)
	}
	if got := link.Count(transactions); got != 3 {
		t.Errorf("%d transactions for three writes: a write was repeated unseen", got)
	}
}

// TestAnswerOfALosingWriteIsLost: our write failed for good, unseen, because
// another was faster with the very same content.
func TestAnswerOfALosingWriteIsLost(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	link := consultest.Proxy(t, consul.Addr)
	claim := peers.Record{}.Claimed(a, "v", "", now)
	mustWrite(t, consul.Client, claim, 0, true)
	link.LoseAnswer(1, transactions)
	if ok, err := peers.WriteRecord(t.Context(), consultest.Client(t, link.Addr, ""), recordKey, claim, 0, "", ""); ok || err == nil {
		t.Errorf("took another write of the same content for its own: %t, %v", ok, err)
	}
}

func TestForeignValueAtTheKeyIsUnknownNotAbsent(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	for _, value := range []string{"", "null", "{}", `{"state":"born"}`, "rabbit@a", `["formed"]`, `{"state":""}`} {
		if _, err := consul.Client.KV().Put(&api.KVPair{Key: recordKey, Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
		r, _, err := peers.ReadRecord(t.Context(), consul.Client, recordKey)
		if err == nil {
			t.Errorf("%q was read as %+v", value, r)
			continue
		}
		if !strings.Contains(err.Error(), recordKey) {
			t.Errorf("the error does not name the key: %v", err)
		}
	}
	link := consultest.Proxy(t, consul.Addr)
	link.Refuse()
	if _, _, err := peers.ReadRecord(t.Context(), consultest.Client(t, link.Addr, ""), recordKey); err == nil {
		t.Error("no Consul was read as no record")
	}
	link.Blackhole()
	start := time.Now()
	if _, _, err := peers.ReadRecord(t.Context(), consultest.Client(t, link.Addr, ""), recordKey); err == nil || time.Since(start) > expect.Soon {
		t.Errorf("a Consul that never answers: %v after %s", err, time.Since(start))
	}
}

func TestSessionGone(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	id, _, err := consul.Client.Session().CreateNoChecks(&api.SessionEntry{TTL: "10s", LockDelay: time.Millisecond}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := peers.SessionGone(t.Context(), consul.Client, id); err != nil || gone {
		t.Errorf("a session that lives: gone %t, %v", gone, err)
	}
	if _, err := consul.Client.Session().Destroy(id, nil); err != nil {
		t.Fatal(err)
	}
	if gone, err := peers.SessionGone(t.Context(), consul.Client, id); err != nil || !gone {
		t.Errorf("a session that was destroyed: gone %t, %v", gone, err)
	}
	if gone, err := peers.SessionGone(t.Context(), consul.Client, ""); err != nil || !gone {
		t.Errorf("no session: gone %t, %v", gone, err)
	}
	link := consultest.Proxy(t, consul.Addr)
	link.Refuse()
	if gone, err := peers.SessionGone(t.Context(), consultest.Client(t, link.Addr, ""), id); err == nil || gone {
		t.Errorf("no Consul: gone %t, %v", gone, err)
	}
}

func mustWrite(t *testing.T, client *api.Client, r peers.Record, index uint64, want bool) {
	t.Helper()
	ok, err := peers.WriteRecord(t.Context(), client, recordKey, r, index, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if ok != want {
		t.Fatalf("write at %d: %t, want %t", index, ok, want)
	}
}

func mustRead(t *testing.T, client *api.Client) (peers.Record, uint64) {
	t.Helper()
	r, index, err := peers.ReadRecord(t.Context(), client, recordKey)
	if err != nil || index == 0 {
		t.Fatalf("read: %d, %v", index, err)
	}
	return r, index
}

// eventually waits for a condition; only its deadline can fail.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(expect.Soon); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
