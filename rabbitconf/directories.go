package rabbitconf

// A Directory is where the user's files have RabbitMQ keep data.
type Directory struct {
	Holds Holds
	Key   string // the setting, as it is written there
	At    string // where, and what it says
	Path  string // "" if it is no text
}

// Holds is what RabbitMQ keeps in a directory.
type Holds int

// What a [Directory] is of.
const (
	Data    Holds = iota // all that is not elsewhere
	Quorum               // replicas of quorum queues
	Journal              // what these wrote last
	Streams              // replicas of streams
)

// Directories returns where the user's files have RabbitMQ keep data, whatever its variables say
// (measured on 4.3.6; the journal of quorum queues read in Ra, their library). It returns what
// advanced.config replaces, too: the day that goes, it would count.
func (u User) Directories() (all []Directory) {
	for _, l := range u.conf {
		if l.key == "raft.data_dir" {
			all = append(all, Directory{Holds: Quorum, Key: l.key, At: l.at + ": " + l.key + " = " + l.value, Path: l.value})
		}
	}
	for _, of := range []struct {
		app, key Atom
		holds    Holds
	}{{"mnesia", "dir", Data}, {"rabbit", "data_dir", Data}, {"ra", "data_dir", Quorum}, {"ra", "wal_data_dir", Journal}, {"osiris", "data_dir", Streams}} {
		for _, setting := range u.application(of.app) {
			if key(setting) == of.key {
				value := pair(setting)
				written := func(v string) string { return "{" + string(of.app) + ", [{" + string(of.key) + ", " + v + "}]}" }
				all = append(all, Directory{Holds: of.holds, Key: written("…"), At: u.at + ": " + written(Text(value)), Path: fileName(value)})
			}
		}
	}
	return all
}

// fileName is what a term says that Erlang takes for the name of a file, or "".
func fileName(t Term) string {
	switch t := t.(type) {
	case String:
		return string(t)
	case Binary:
		return string(t)
	case Atom:
		return string(t)
	}
	return ""
}
