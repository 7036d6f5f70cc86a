package peers

import "maps"

// Runs returns the record with the version of RabbitMQ that node was verified with. Only
// a member has one.
func (r Record) Runs(node, version string) Record {
	if _, on := r.Members[node]; !on || version == "" || r.Versions[node] == version {
		return r
	}
	r.Versions = maps.Clone(r.Versions)
	if r.Versions == nil {
		r.Versions = map[string]string{}
	}
	r.Versions[node] = version
	return r
}
