package docs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// A place is where a reader stands: on the host, in a directory of the repository.
type place struct {
	program string // the real one
	dir     string // relative to the root of the repository
	file    string // COMPOSE_FILE
	scratch string // a directory for what a command reads and writes
	helps   map[string]string
	used    map[string]bool // of elsewhere
}

// elsewhere is what nothing here can try, and why; where something else tries it, that is said.
var elsewhere = map[string]string{
	"docker swarm init": "makes this host a Swarm; TestSwarm of tests/cluster does",
	"docker load -i rmq-entrypoint-linux-amd64.image.tar":          "needs a release; tests/release makes one and looks into it",
	"docker build --build-arg BASE=rabbitmq@sha256:…":              "needs a registry and a digest; the argument is checked by TestNames",
	"docker compose build --build-arg BASE=… --build-arg DEBIAN=…": "needs a registry and digests; TestPinsAreTold of tests/house knows the arguments",
	"docker buildx imagetools inspect rabbitmq:4.3-management":     "needs a registry",
	"docker create --name copied rmq-entrypoint/rabbitmq:forky":    "needs an image of scripts/images --all",
	"docker cp copied:/usr/lib/erlang /srv/bench/erlang":           "needs the container of the line before",
	"docker cp copied:/usr/lib/rabbitmq /srv/bench/rabbitmq":       "needs the container of the line before",
	"docker rm -v copied":                                                      "needs the container of the line before",
	"mkdir -p /srv/bench":                                                      "outside of the repository",
	"dig rabbitmq.service.consul SRV":                                          "needs a Consul that is the host's name server; TestDNS of peers asks one",
	"dig @172.20.0.11 …":                                                       "any question to the example's name server",
	"dig @172.20.0.11 rabbitmq-management.service.consul SRV":                  "needs the example cluster; TestDNS of peers asks a Consul",
	"consul kv get rmq-entrypoint/rabbitmq/cluster":                            "Consul's own",
	"consul kv delete rmq-entrypoint/rabbitmq/cluster":                         "Consul's own; tests delete the record by its API",
	"dig amqp-a.query.consul SRV":                                              "needs the prepared query of the line before",
	`printf default_user = admin\ndefault_pass = %s\n $(openssl rand -hex 24)`: "the shell's own",
	"kubectl logs rabbitmq-0":                                                  "needs a cluster; the pod is checked in the lines around it",
	"rm -r /var/lib/rabbitmq/mnesia /var/lib/rabbitmq/.erlang.cookie":          "outside of the repository",
	"rabbitmqctl delete_user guest":                                            "RabbitMQ's own",
	"kubectl apply":                                                            "named, and not to be typed so",
	"openssl rand -hex 24":                                                     "OpenSSL's own",
	"sha256sum -c SHA256SUMS":                                                  "needs a release; tests/release checks the sums",
	"chmod 400":                                                                "the way to close a file",
	"rabbitmq-upgrade revive":                                                  "RabbitMQ's own; tests/cluster runs it",
	"rabbitmq-queues grow":                                                     "RabbitMQ's own; named, and not to be typed so",
	"rabbitmq-queues rebalance all":                                            "RabbitMQ's own",
	"rabbitmq-plugins enable --offline …":                                      "RabbitMQ's own; docker/Dockerfile runs it",
	"rabbitmqctl …":                                                            "any command of RabbitMQ's",
	"rabbitmqctl":                                                              "any command of RabbitMQ's",
	"rabbitmqctl cluster_status":                                               "RabbitMQ's own; tests/cluster runs it",
	"rabbitmqctl enable_feature_flag all":                                      "RabbitMQ's own; tests/cluster runs it",
	"rabbitmqctl enable_feature_flag khepri_db":                                "RabbitMQ's own; Debian has no 4.2 to try it on",
	"rabbitmqctl forget_cluster_node":                                          "RabbitMQ's own; named, and not to be typed",
	"rabbitmqctl import_definitions":                                           "RabbitMQ's own; named, and not to be typed so",
	"rabbitmqctl set_cluster_name rabbitmq":                                    "RabbitMQ's own",
	"rabbitmqctl add_vhost NAME --default-queue-type classic":                  "RabbitMQ's own",
	"rabbitmqctl update_vhost_metadata NAME --default-queue-type quorum":       "RabbitMQ's own",
	`rabbitmqctl set_operator_policy no-limit .* {"delivery-limit": -1} --apply-to queues`: "RabbitMQ's own",
}

// programs begin what is a command in prose. A script is one, too.
var programs = []string{
	"rmq-entrypoint", "docker", "docker-compose", "rabbitmqctl", "rabbitmq-upgrade", "rabbitmq-queues", "rabbitmq-plugins", "dig", "curl", "go", "openssl",
	"sha256sum", "chmod", "cd", "kubectl", "systemctl", "journalctl", "sudo", "apt-mark",
}

// ours are the subcommands that prose names without the program, where something follows them.
var ours = []string{"status", "list", "doctor", "drain", "leave", "forget", "healthcheck", "forget-cluster", "force-boot", "produce", "consume", "compare"}

func isCommand(said string) bool {
	commands, err := parse(said)
	if err != nil || len(commands) == 0 || len(commands[0].words) == 0 {
		return false
	}
	first := commands[0].words[0]
	if strings.Contains(said, ":") && len(strings.Fields(said)) == 1 {
		return false // an image, a key
	}
	return slices.Contains(programs, first) || strings.HasPrefix(first, "scripts/") && !strings.HasPrefix(first, "scripts/benchmark") && first != "scripts/secure" ||
		slices.Contains(ours, first) && len(commands[0].words) > 1 && strings.ContainsAny(said, "-[")
}

func TestCommands(t *testing.T) {
	at := place{program: built(t), scratch: t.TempDir(), helps: map[string]string{}, used: map[string]bool{}}
	at.ledgers(t)
	n, block := 0, line{}
	for _, p := range pages(t) {
		for _, l := range p.typed {
			if l.block == 0 || l.file != block.file || l.block != block.block {
				at.dir, at.file = ".", ""
			}
			block = l
			if err := at.line(l); err != nil {
				t.Errorf("%s:%d: %s: %v", l.file, l.number, l.text, err)
			}
			n++
		}
	}
	if n < 100 {
		t.Errorf("only %d lines were found", n)
	}
	for said := range elsewhere {
		if !at.used[said] {
			t.Errorf("%q is listed as not to be tried here, and no document has it", said)
		}
	}
}

// built is the program, made as the README says.
func built(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "rmq-entrypoint")
	if out, err := ran(root, append(os.Environ(), "CGO_ENABLED=0"), "go", "build", "-trimpath", "-o", program, "./cmd/rmq-entrypoint"); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// line checks a line, and stays in the directory that it changes to.
func (at *place) line(l line) error {
	typed := l.text
	if l.prose {
		if strings.HasPrefix(typed, "docker-compose ") || strings.HasPrefix(typed, "docker compose ") {
			at.dir = "compose" // where prose says that it is typed
		}
		first, _, _ := strings.Cut(typed, " ")
		if slices.Contains(ours, first) {
			typed = "rmq-entrypoint " + typed
		}
		if strings.HasPrefix(typed, "rmq-entrypoint ") && strings.ContainsAny(typed, "[") {
			return at.usage(typed)
		}
	}
	commands, err := parse(typed)
	if err != nil {
		return err
	}
	if out, err := ran(".", nil, "bash", "-n", "-c", typed); err != nil && !l.prose {
		return fmt.Errorf("bash -n: %s", out)
	}
	for _, c := range commands {
		if err := variables(c.set); err != nil {
			return err
		}
		if err := at.command(c, l.prose); err != nil {
			return err
		}
	}
	return nil
}

func (at *place) command(c command, prose bool) error {
	for _, m := range substituted.FindAllStringSubmatch(c.String(), -1) {
		if err := at.line(line{text: m[1]}); err != nil {
			return err
		}
	}
	if len(c.words) == 0 {
		return nil
	}
	if _, ok := elsewhere[strings.Join(c.words, " ")]; ok {
		at.used[strings.Join(c.words, " ")] = true
		return nil
	}
	first, words := c.words[0], c.words[1:]
	switch {
	case strings.HasPrefix(first, "scripts/"):
		return at.script(first, words)
	case first == "rmq-entrypoint":
		return at.ours(words)
	case first == "docker":
		return at.docker(words, prose)
	case first == "docker-compose":
		return at.compose(words, prose)
	case first == "cd":
		at.dir = filepath.Join(at.dir, strings.Join(words, " "))
		return folder(at.dir)
	case first == "export":
		for _, w := range words {
			if file, ok := strings.CutPrefix(w, "COMPOSE_FILE="); ok {
				at.file = file
			}
		}
		return variables(words)
	case first == "go":
		return at.golang(words, prose)
	case first == "kubectl":
		return at.kubectl(words)
	case slices.Contains([]string{"systemctl", "journalctl", "sudo", "install", "apt-get", "apt-mark"}, first) && len(words) > 0:
		return at.host(first, words)
	case first == "curl":
		return curl(words)
	}
	return fmt.Errorf("no rule knows %q: add one, or list it with why it cannot be tried here", strings.Join(c.words, " "))
}

// script has the script say what it takes.
func (at *place) script(name string, words []string) error {
	if at.dir != "." {
		return fmt.Errorf("%s is not in %s", name, at.dir)
	}
	help, ok := at.helps[name]
	if !ok {
		out, err := ran(".", nil, filepath.Join(root, name), "--help")
		if err != nil {
			return fmt.Errorf("%s --help: %w: %s", name, err, out)
		}
		help = out
		at.helps[name] = help
	}
	usage, _, _ := strings.Cut(strings.TrimPrefix(help, "Usage: "+name), "\n")
	takes := regexp.MustCompile(`\[?-[^\]]*\]?…?`).ReplaceAllString(usage, "") // but for flags
	for i, w := range words {
		ofFlag := i > 0 && regexp.MustCompile(regexp.QuoteMeta(words[i-1])+` [A-Z]|`+regexp.QuoteMeta(words[i-1])+` \d`).MatchString(usage)
		switch {
		case strings.HasPrefix(w, "-") && !slices.Contains(strings.FieldsFunc(usage, func(r rune) bool { return strings.ContainsRune(" []|…", r) }), w):
			return fmt.Errorf("%s has no %s: its usage is%s", name, w, usage)
		case !strings.HasPrefix(w, "-") && !ofFlag && strings.TrimSpace(takes) == "":
			return fmt.Errorf("%s takes no %s: its usage is%s", name, w, usage)
		}
	}
	return nil
}

// usage checks a command as a table shows it, with all that it takes.
func (at *place) usage(said string) error {
	words := strings.Fields(said)
	args := []string{"--help"}
	if !strings.HasPrefix(words[1], "[") {
		args = []string{words[1], "--help"}
	}
	out, err := ran(".", nil, at.program, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", out, err)
	}
	said = strings.ReplaceAll(said, "[rabbitmq-server …]", "[command]") // which is what can be given there
	if !strings.Contains(out, "usage: "+said+"\n") {
		return fmt.Errorf("that is not its usage:\n%s", out)
	}
	return nil
}

// ours has the real program read its command line, which ends at what comes after that: a secret that is given twice, or a
// setting that is refused.
func (at *place) ours(words []string) error {
	env := []string{"PATH=", "RABBITMQ_ERLANG_COOKIE=x", "RABBITMQ_ERLANG_COOKIE_FILE=x"}
	ends := "both RABBITMQ_ERLANG_COOKIE and RABBITMQ_ERLANG_COOKIE_FILE are set"
	name := ""
	if len(words) > 0 {
		name = words[0]
	}
	switch name {
	case "…", "--help", "version":
		return nil
	case "produce":
		words, ends = append(slices.Clone(words), "--settle=-1s"), "--settle"
	case "consume":
		words, ends = append(slices.Clone(words), "--prefetch=0"), "--prefetch 0"
	case "compare":
		ends = ""
	case "rabbitmqctl": // which it executes
		return at.command(command{words: words}, true)
	}
	if len(words) == 0 {
		return nil // its name
	}
	out, err := ran(at.scratch, env, at.program, words...)
	if ends == "" {
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err == nil || !strings.Contains(out, ends) && !strings.Contains(out, "needs --cluster-id ID") { // which prose may leave out
		return fmt.Errorf("the program does not take that: %s", out)
	}
	return nil
}

// ledgers are what a producer and a consumer leave that lost nothing.
func (at *place) ledgers(t *testing.T) {
	t.Helper()
	for name, events := range map[string]string{"produced": "produce 5f3a9c01 my-queue,confirmed 5f3a9c01 1,end 5f3a9c01 1", "consumed": "consume 6f3a9c01 my-queue,received 5f3a9c01 1,end 6f3a9c01 1"} {
		var lines string
		for event := range strings.SplitSeq(events, ",") {
			lines += "2026-11-22T01:02:03.000001Z " + event + "\n"
		}
		if err := os.WriteFile(filepath.Join(at.scratch, name), []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// inContainer checks what is run in a node's container.
func (at *place) inContainer(words []string) error {
	if len(words) == 0 {
		return nil
	}
	if first := words[0]; first != "rmq-entrypoint" && !strings.HasPrefix(first, "rabbitmq") {
		return fmt.Errorf("%s is not in the image", first)
	}
	return at.command(command{words: words}, true)
}

var dockerOptions = map[string]map[string]bool{
	"exec":    {"-u": true},
	"build":   {"-f": true, "-t": true, "--build-arg": true},
	"ps":      {"-q": false, "-f": true},
	"run":     {"-d": false, "--rm": false, "--network": true, "--hostname": true, "-p": true, "-v": true, "-e": true},
	"stack":   {"-c": true},
	"service": {"--force": false},
}

// named are those that prose names.
var named = []string{"run", "stop", "logs", "exec", "ps"}

func (at *place) docker(words []string, prose bool) error {
	switch {
	case len(words) == 0:
		return nil
	case words[0] == "compose":
		return at.compose(words[1:], prose)
	case prose && len(words) == 1 && slices.Contains(named, words[0]):
		return nil
	}
	known, ok := dockerOptions[words[0]]
	if !ok {
		return fmt.Errorf("no rule knows docker %s: add one, or list it with why it cannot be tried here", strings.Join(words, " "))
	}
	kind := words[0]
	words = words[1:]
	if kind == "stack" || kind == "service" {
		if len(words) == 0 {
			return fmt.Errorf("docker %s needs a command", kind)
		}
		kind, words = kind+" "+words[0], words[1:]
	}
	words, options, err := optionsOf(words, known)
	if err != nil {
		return err
	}
	swarm, err := readStack("compose/stack.yml")
	if err != nil {
		return err
	}
	switch kind {
	case "ps":
		return at.filters(options["-f"])
	case "exec":
		return at.exec(words)
	case "build":
		return at.build(words, options)
	case "run":
		if err := variables(options["-e"]); err != nil || len(words) == 0 {
			return fmt.Errorf("no image, or %w", err)
		}
		return at.inContainer(words[1:])
	case "stack deploy":
		_, err := readStack(filepath.Join(at.dir, strings.Join(options["-c"], " ")))
		return err
	case "service update":
		return swarm.has(strings.TrimPrefix(strings.Join(words, " "), "rmq_"))
	}
	return fmt.Errorf("no rule knows docker %s", kind)
}

// build checks that the Dockerfile is there, and takes the arguments.
func (at *place) build(words []string, options map[string][]string) error {
	name := "docker/Dockerfile"
	if given := options["-f"]; len(given) > 0 {
		name = filepath.Join(at.dir, given[0])
	}
	file, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return err
	}
	for _, given := range options["--build-arg"] {
		if arg, _, _ := strings.Cut(given, "="); !regexp.MustCompile(`(?m)^ARG ` + arg + `(?:=|$)`).Match(file) {
			return fmt.Errorf("%s has no argument %s", name, arg)
		}
	}
	if len(words) > 0 {
		return folder(filepath.Join(at.dir, words[0]))
	}
	return nil
}

// filters checks by which names containers are looked for: of a task of a Swarm, or of a service of the example.
func (at *place) filters(all []string) error {
	swarm, err := readStack("compose/stack.yml")
	if err != nil {
		return err
	}
	for _, filter := range all {
		name, ok := strings.CutPrefix(filter, "name=rmq_")
		if !ok {
			return fmt.Errorf("%s is no task of docker stack deploy … rmq", filter)
		}
		name, _, _ = strings.Cut(name, ".")
		if err := swarm.has(name); err != nil {
			return err
		}
	}
	return nil
}

// exec checks docker exec: the container is one of the example's, or one that the reader fills in.
func (at *place) exec(words []string) error {
	if len(words) < 2 {
		return fmt.Errorf("docker exec needs a container and a command")
	}
	if name := words[0]; name != "CONTAINER" && name != "…" && !strings.HasPrefix(name, "$(") {
		s, err := readStack("compose/docker-compose.yml")
		if err != nil {
			return err
		}
		if err := s.container(name); err != nil {
			return err
		}
	}
	return at.inContainer(words[1:])
}

// golang checks the packages that are named.
func (at *place) golang(words []string, prose bool) error {
	if prose && len(words) == 1 {
		return nil
	}
	if len(words) == 0 || !slices.Contains([]string{"build", "run", "test"}, words[0]) {
		return fmt.Errorf("no rule knows go %s", strings.Join(words, " "))
	}
	dir := at.dir
	for i, w := range words {
		if w == "-C" && i+1 < len(words) {
			dir = filepath.Join(dir, words[i+1])
		}
	}
	if out, err := ran(filepath.Join(root, dir), nil, "go", "list", words[len(words)-1]); err != nil {
		return fmt.Errorf("go list: %s", out)
	}
	return nil
}

// curl checks that what is sent is JSON, to the port that the example publishes.
func curl(words []string) error {
	rest, options, err := optionsOf(words, map[string]bool{"-X": true})
	if err != nil || len(rest) != 3 || rest[1] != "-d" || len(options) != 1 {
		return fmt.Errorf("no rule knows that (%v)", err)
	}
	if !strings.HasPrefix(rest[0], "http://127.0.0.1:8500/v1/") {
		return fmt.Errorf("%s is not Consul's", rest[0])
	}
	if !json.Valid([]byte(rest[2])) {
		return fmt.Errorf("%s is no JSON", rest[2])
	}
	return nil
}

// ran runs a program to its end, with what hangs ended.
func ran(dir string, env []string, name string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), expect.Soon)
	defer stop()
	run := exec.CommandContext(ctx, name, args...)
	run.Dir, run.Env, run.WaitDelay = dir, env, time.Second
	out, err := run.CombinedOutput()
	return string(out), err
}

func folder(name string) error {
	info, err := os.Stat(filepath.Join(root, name))
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", name)
	}
	return err
}
