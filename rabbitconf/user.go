package rabbitconf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// User is what the user's own configuration files say. The zero value is that
// of no files.
type User struct {
	conf      []line // of rabbitmq.conf and conf.d, each key once
	advanced  List   // {Application, [{Key, Value}]}, each once
	at        string // the path of advanced.config
	formation List   // the list cluster_formation that all of them make
}

// A line is one setting of a .conf file.
type line struct{ key, value, at string }

// Files is where the user's own configuration lies, and what it depends on besides. A path
// that is empty or names nothing is fine.
type Files struct {
	Conf     string // rabbitmq.conf
	ConfD    string // a directory, all of whose files are read, or a pattern, as in RABBITMQ_CONFIG_FILES
	Advanced string // advanced.config

	Version   Version                          // of RabbitMQ, whose grammar counts; zero: that of the latest
	LookupEnv func(name string) (string, bool) // of the server, for $(NAME) in values; nil: it has no variables
}

// ReadUser reads the user's own files. Its errors name file, line and key, and what
// to do: for files that RabbitMQ would refuse too, for the settings that
// rmq-entrypoint decides itself, and for what it cannot carry over.
//
// Like RabbitMQ it takes the files of conf.d in the order of their names, and
// of a setting that is repeated the last. advanced.config is read as RabbitMQ
// 3.10 and later do; 3.8 would take text outside ASCII for UTF-8.
func ReadUser(f Files) (User, error) {
	u := User{at: f.Advanced}
	files, err := confFiles(f.Conf, f.ConfD)
	if err != nil {
		return User{}, err
	}
	for _, path := range files {
		lines, err := readConf(path, grammarOf(f.Version), 0)
		if err != nil {
			return User{}, err
		}
		for _, l := range lines {
			u.conf = append(slices.DeleteFunc(u.conf, func(o line) bool { return o.key == l.key }), l)
		}
	}
	if err := u.refusedConf(); err != nil { // whatever its value stands for
		return User{}, err
	}
	if err := u.interpolate(f.LookupEnv); err != nil {
		return User{}, err
	}
	if u.advanced, err = readAdvanced(f.Advanced); err != nil {
		return User{}, err
	}
	if u.formation, err = u.readFormation(f.Advanced); err != nil {
		return User{}, err
	}
	return u, nil
}

// Sets reports whether the user sets key: in a .conf file by that name or a
// name below it (cluster_partition_handling.pause_if_all_down.recover for
// cluster_partition_handling), or as {rabbit, [{key, …}]} in advanced.config.
func (u User) Sets(k string) bool {
	return has(u.application("rabbit"), Atom(k)) || slices.ContainsFunc(u.conf, func(l line) bool {
		return l.key == k || strings.HasPrefix(l.key, k+".")
	})
}

// Default returns what the files say of default_user, default_pass or default_vhost; "" if
// nothing, or nothing that this program can read, as where it is encrypted.
func (u User) Default(k string) (value string) {
	for _, l := range u.conf {
		if l.key == k && !strings.HasPrefix(l.value, "encrypted:") && !strings.Contains(l.value, "$(") {
			value = l.value
		}
	}
	for _, setting := range u.application("rabbit") {
		if key(setting) == Atom(k) {
			b, _ := pair(setting).(Binary)
			value = string(b)
		}
	}
	return value
}

// application returns the user's settings in advanced.config.
func (u User) application(name Atom) List {
	for _, app := range u.advanced {
		if key(app) == name {
			return app.(Tuple)[1].(List)
		}
	}
	return nil
}

// MainConf returns the .conf file that RabbitMQ reads when RABBITMQ_CONFIG_FILE
// is path, or "" if there is none. It returns an error if RabbitMQ would read a
// file of Erlang terms instead: that one hides rabbitmq.conf, and also the file
// that RABBITMQ_ADVANCED_CONFIG_FILE names.
func MainConf(path string) (string, error) {
	terms := ""
	switch {
	case path == "":
		return "", nil
	case regular(path):
		if ext := filepath.Ext(path); ext == ".conf" {
			return path, nil
		} else if ext != ".config" {
			// RabbitMQ looks inside.
			src, err := os.ReadFile(path)
			if err != nil {
				return "", fmt.Errorf("read configuration: %w", err)
			}
			if list, err := parse(src); err != nil || len(list) == 0 {
				return path, nil
			}
		}
		terms = path
	case regular(path + ".config"):
		terms = path + ".config"
	case regular(path + ".conf"):
		return path + ".conf", nil
	default:
		return "", nil
	}
	return "", fmt.Errorf("%s: with this file of Erlang terms RabbitMQ reads neither rabbitmq.conf nor what rmq-entrypoint writes; "+
		"move it to %s, which is merged, or set RABBITMQ_CONFIG_FILE to a .conf file",
		terms, filepath.Join(filepath.Dir(terms), "advanced.config"))
}

func regular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// readAdvanced reads an advanced.config and checks its form, [{application,
// [{key, value}]}]. Like RabbitMQ it takes the last of equal applications and
// of equal keys.
func readAdvanced(path string) (List, error) {
	src, err := os.ReadFile(path)
	if path == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	terms, err := parse(src)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; rmq-entrypoint merges this file with its own and so must understand it: "+
			"write plain Erlang terms, or use rabbitmq.conf", path, err)
	}
	if len(terms) == 0 {
		return nil, nil
	}
	applications, ok := terms[0].(List)
	if !ok || len(terms) > 1 {
		return nil, fmt.Errorf("%s: it must hold one list, [{application, [{key, value}]}], and a full stop", path)
	}
	var merged List
	for i, app := range applications {
		settings, ok := pair(app).(List)
		if !ok {
			return nil, fmt.Errorf("%s: element %d is not {application, [{key, value}]}", path, i+1)
		}
		var once List
		for i, setting := range settings {
			if pair(setting) == nil {
				return nil, fmt.Errorf("%s: element %d of %s is not {key, value}", path, i+1, key(app))
			}
			once = append(without(once, key(setting)), setting)
		}
		merged = append(without(merged, key(app)), Tuple{key(app), once})
	}
	return merged, nil
}

// pair returns the value of {key, value}, and nil for anything else.
func pair(t Term) Term {
	if p, ok := t.(Tuple); ok && len(p) == 2 {
		if _, ok := p[0].(Atom); ok {
			return p[1]
		}
	}
	return nil
}

func without(list List, k Atom) List {
	return slices.DeleteFunc(list, func(t Term) bool { return key(t) == k })
}
