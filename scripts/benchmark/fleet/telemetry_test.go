package fleet

import (
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// Of a Consul 1.22 with two nodes, shortened.
const metrics = `# TYPE consul_api_http summary
consul_api_http{method="PUT",path="v1_agent_check_update_",quantile="0.5"} 0.2
consul_api_http_sum{method="PUT",path="v1_agent_check_update_"} 4.5
consul_api_http_count{method="PUT",path="v1_agent_check_update_"} 24
consul_api_http_count{method="GET",path="v1_kv_"} 1e+06
consul_rpc_server_call_count{allow_stale="false",blocking="false",errored="false",leader="true",locality="local",method="KVS.Get",request_type="read",rpc_type="net/rpc",target_datacenter="dc1"} 7
consul_rpc_server_call_count{allow_stale="true",blocking="true",errored="false",leader="true",locality="local",method="KVS.Get",request_type="read",rpc_type="net/rpc",target_datacenter="dc1"} 100
consul_rpc_server_call_count{allow_stale="false",blocking="false",errored="false",leader="false",locality="local",method="KVS.Get",request_type="read",rpc_type="internal",target_datacenter="dc1"} 1000
consul_rpc_server_call_count{errored="false",leader="true",locality="local",method="Catalog.Register",request_type="write",rpc_type="net/rpc",target_datacenter="dc1"} 3
consul_rpc_server_call_count{errored="false",leader="true",method="Status.RaftStats",request_type="unreported",rpc_type="net/rpc"} 500
consul_rpc_server_call_count{errored="false",leader="true",method="Reap",request_type="write",rpc_type="internal"} 900
`

func TestTally(t *testing.T) {
	got, err := tally(metrics)
	expect.Must(t, err)
	if want := (Tally{HTTP: 1000024, Leader: 10}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, text := range []string{"", strings.ReplaceAll(metrics, "rpc_server_call", "rpc_other"), strings.ReplaceAll(metrics, "api_http", "api_other")} {
		if got, err := tally(text); err == nil {
			t.Errorf("without what counts: %+v", got)
		}
	}
}
