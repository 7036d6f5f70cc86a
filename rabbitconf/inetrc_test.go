package rabbitconf

import "testing"

func TestInetrc(t *testing.T) {
	want := `%% Written by rmq-entrypoint at each start of this node: edits are lost.
{hosts_file,"/data/a \"b\"/hosts"}.
{lookup,[file,native]}.
`
	if got := string(Inetrc(`/data/a "b"/hosts`)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
